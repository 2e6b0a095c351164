"""Beam search: the most likely text where the beam holds all, greedy ones token by token, each text by itself."""

import itertools

import numpy as np
import pytest

from lissom.serving.translation import search


def logits_by_prefix(seed):
    """A model of five tokens: the logits of the next one depend on all before it; padding, token 0, has no share."""

    def of(prefix):
        logits = np.random.default_rng([seed, *prefix]).normal(size=5).astype(np.float32) * 2
        logits[0] = -1e9
        return logits

    return of


def stepping(of, starts=((),)):
    """The step of a search in such a model, for texts that differ in what comes before their answers."""
    state = list(starts)

    def step(tokens, origins):
        nonlocal state
        before = state if origins is None else [state[origin] for origin in origins]
        state = [(*prefix, int(token)) for prefix, token in zip(before, tokens, strict=True)]
        return np.stack([of(prefix) for prefix in state])

    return step


def mean_log_probability(of, text, start):
    total = 0.0
    for place, token in enumerate(text):
        logits = of((start, *text[:place]))
        total += float(logits[token] - np.log(np.exp(logits).sum()))
    return total / len(text)


@pytest.mark.parametrize("seed", range(12))
def test_a_wide_beam_finds_the_most_likely_text(seed):
    """Among all texts of at most four tokens; a greedy search takes the most likely token every time."""
    of, end, start = logits_by_prefix(seed), 1, 2
    serving = {"beams": 400, "max_length": 4, "start_id": start, "end_ids": [end], "pad_id": 0}
    texts = [(*begin, end) for length in range(4) for begin in itertools.product((2, 3, 4), repeat=length)]
    texts += list(itertools.product((2, 3, 4), repeat=4))
    best = max(texts, key=lambda text: mean_log_probability(of, text, start))
    assert search(stepping(of), 1, serving) == [[token for token in best if token != end]]
    (greedy,) = search(stepping(of), 1, serving | {"beams": 1})
    for place, token in enumerate(greedy):
        assert token == of((start, *greedy[:place])).argmax()
    assert len(greedy) == 4 or of((start, *greedy)).argmax() == end


def test_the_answers_of_a_batch_are_those_of_its_texts_alone():
    of = logits_by_prefix(3)
    serving = {"beams": 3, "max_length": 6, "start_id": 2, "end_ids": [1], "pad_id": 0}
    starts = [(7, 1), (8, 2), (9, 3)]
    together = search(stepping(of, starts), 3, serving)
    assert together == [search(stepping(of, [start]), 1, serving)[0] for start in starts]
