"""BLEU: sacrebleu's, however the texts are divided."""

import random

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from lissom.tasks.bleu import BleuMeter, chrf
from tests.unit.test_translation import TASK, pairs_of


def test_bleu_is_sacrebleus_however_the_texts_are_divided():
    generator = random.Random(0)
    references = [row.label for row in pairs_of(60)]
    answers = [
        " ".join(generator.sample(text.split(), k=len(text.split()) - generator.randint(0, 1))) + "."
        for text in references
    ]
    expected = BLEU().corpus_score(answers, [references]).score / 100
    given, truth = np.asarray(answers, dtype=object), np.asarray(references, dtype=object)
    whole, part = BleuMeter(), BleuMeter()
    whole.add(given[:25], truth[:25])
    part.add(given[25:], truth[25:])
    whole.merge(part)
    assert whole.result() == pytest.approx(expected, rel=1e-9) and 0 < expected < 1
    perfect = BleuMeter()
    perfect.add(truth, truth)
    assert perfect.result() == pytest.approx(1) and chrf(truth, truth) == pytest.approx(1) and BleuMeter().result() == 0
    rare, (answers, truths) = BleuMeter(), (["a b c d e", "x"], ["a b x d e", "y"])  # no match of three or four words
    rare.add(np.asarray(answers, dtype=object), np.asarray(truths, dtype=object))
    assert rare.result() == pytest.approx(BLEU().corpus_score(answers, [truths]).score / 100) and rare.result() > 0.1
    assert TASK.metric.show(0.3512) == "35.1" and TASK.metric.show_change(0.30, 0.35) == "+5.0"
