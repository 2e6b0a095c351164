"""Language models with fewer tokens: what the teacher knows of the others, and what scores are compared."""

import math
import random

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

import lissom
from lissom.data.tables import Row, write_table
from lissom.errors import ParamsError
from lissom.evaluate.paired import compare_scores
from lissom.evaluate.variant import timed_together
from lissom.export.onnx import export_onnx
from lissom.factorize.config import FactorizeMethod
from lissom.factorize.plan import plan
from lissom.gguf.answers import torch_answer
from lissom.models.edits import FactorizeWordTable, KeepVocabulary
from lissom.models.generation import end_ids
from lissom.models.vocabulary import closed_vocabulary, trim_tokenizer
from lissom.params import check_params
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.language_modeling import NEW_TOKENS
from lissom.tasks.next_token import renumbered
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.teacher import CachedLogits, cache_logits
from tests.unit import tiny
from tests.unit.test_language_modeling import TASK, TRAINING, model_of

PARAMS = {"method": "word_table", "training": TRAINING | {"epochs": 2, "loss": {"temperature": 1.0}}}


@pytest.mark.parametrize("cached", [5, 64, None])
def test_a_teachers_distribution_of_the_tokens_that_are_left(cached):
    """With all tokens cached it is exactly the conditional one; what is gone and not cached stays in the rest."""
    torch.manual_seed(0)
    size, kept = 30, torch.tensor([0, 2, 3, 7, 11, 13, 20, 28])
    new_ids = torch.full((size,), -1)
    new_ids[kept] = torch.arange(len(kept))
    teacher, student = torch.randn(6, size), torch.randn(6, len(kept), requires_grad=True)
    teacher[:, 28] = teacher.min(1).values - 0.5  # the one token that a cache of all lacks is left
    known = teacher if cached is None else TASK.remember(teacher, cached)
    loss = TASK.soft_loss(student, renumbered(known, new_ids), 1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()
    if cached == 5:
        assert float(loss) > 0
        return
    exact = TASK.soft_loss(student, teacher[:, kept], 1.0)
    assert float(loss) == pytest.approx(float(exact), abs=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(exact, student)[0], atol=1e-5)


def test_both_sides_are_timed_on_the_same_parts_of_the_same_texts(tmp_path):
    """With fewer tokens a text has more windows: each is compared with the other side's of the same number."""
    generator = random.Random(0)
    texts = [" ".join(generator.choices(tiny.WORDS, k=generator.randint(3, 40))) for _ in range(60)]
    table = write_table(tmp_path / "texts.arrow", [Row(text, None, None) for text in texts])
    teacher, student = model_of("llama"), model_of("llama")
    counts = np.zeros(teacher.network.config.vocab_size, dtype=np.int64)
    student.edit([KeepVocabulary(kept=closed_vocabulary(student.tokenizer, counts, 1))])
    sides = [TASK.encode([table], each.tokenizer, tmp_path / name) for name, each in (("t", teacher), ("s", student))]
    assert len(sides[1]) > len(sides[0]) > len(texts)
    batches = timed_together([(data, 0) for data in sides], 1)
    assert len(batches[0]) == len(batches[1]) == len(sides[0])
    for pair in zip(*batches, strict=True):
        numbers = [int(data.text_numbers[batch.indices[0]]) for data, batch in zip(sides, pair, strict=True)]
        firsts = [np.searchsorted(data.text_numbers, number) for data, number in zip(sides, numbers, strict=True)]
        places = [int(batch.indices[0]) - first for batch, first in zip(pair, firsts, strict=True)]
        assert numbers[0] == numbers[1] and places[0] == places[1]


@pytest.mark.parametrize("size", [5, 7, 11, 129])
def test_a_cache_is_never_taken_for_logits(size):
    torch.manual_seed(0)
    teacher, student = torch.randn(4, size), torch.randn(4, size)
    for tokens in (2, 3, 5, 64):
        assert TASK.remember(teacher, tokens).shape[1] != size
        if tokens >= size:
            exact = float(TASK.soft_loss(student, teacher, 1.0))
            assert float(TASK.soft_loss(student, TASK.remember(teacher, tokens), 1.0)) <= exact + 1e-6
    new_ids = torch.cat([torch.arange(size), torch.full((3,), -1)])
    assert renumbered(TASK.remember(torch.randn(4, size + 3), size // 2), new_ids).shape[1] != size


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tokens_that_no_training_text_has_are_removed(family, rank, tmp_path):
    """The texts are the same tokens by other numbers, so that the teacher's cache holds for them."""
    generator = random.Random(0)
    tables = {
        name: write_table(
            tmp_path / f"{name}.arrow",
            [Row(" ".join(generator.choices(tiny.WORDS[:10], k=9)), None, None) for _ in range(count)],
        )
        for name, count in (("train", 60), ("transfer", 0), ("dev", 12))
    }
    lesson, model = Lesson(tables=tables, scratch=tmp_path), model_of(family)
    params = TypeAdapter(FactorizeMethod).validate_python(PARAMS | {"rank": rank})
    whole = lesson.texts(model)
    lesson.train(
        "teacher", model.network, whole, model.pad_id, against_targets(TASK), params.training, identity="",
    )  # fmt: skip
    logits = CachedLogits(cache_logits(model.network.eval(), whole, model.pad_id, None, TASK))
    before, tied = lesson.scorer(model, params.training)(), model.network.config.tie_word_embeddings
    result = compress(model, plan(model, lesson, params), lesson, logits, params.training)
    (edit,) = (edit for edit in model.manifest.edits if isinstance(edit, KeepVocabulary))
    assert len(edit.kept) == model.network.config.vocab_size < tiny.SIZE
    trimmed = lesson.texts(model)
    assert np.array_equal(np.asarray(edit.kept)[trimmed.tokens], whole.tokens)
    assert result.metrics["dev_score"] < 1.2 * before
    assert any(isinstance(edit, FactorizeWordTable) for edit in model.manifest.edits) == (rank is not None)
    if tied and rank is None:
        assert model.network.get_output_embeddings().weight is model.network.get_input_embeddings().weight
    lissom.save(model, tmp_path / "model")
    (tmp_path / "export").mkdir()
    again = lissom.load(tmp_path / "model")
    ids = again.tokenizer.encode("the dull film").ids  # "dull" is letters now
    ids = ids[:-1] if ids[-1] in end_ids(again.network) else ids
    count = min(NEW_TOKENS, again.manifest.task.max_length // 2)
    expected = again.tokenizer.decode(torch_answer(again, ids[-(again.manifest.task.max_length - count) :], count))
    export_onnx(again, tmp_path / "export")
    (answer,) = OnnxClassifier(tmp_path / "export").predict(["the dull film"])
    assert answer["continuation"].split() == expected.split()


@pytest.mark.parametrize(("task", "count"), [("language_modeling", 2), ("translation", 2)])
def test_tokens_that_texts_have_must_stay(task, count):
    params = {"base": {"model": "dir:x"}, "data": {"source": "files:x", "task": task}}
    with pytest.raises(ParamsError, match="min_count"):
        check_params({**params, "factorize": PARAMS | {"min_count": count}})


def test_models_with_other_tokens_are_compared_per_token_of_the_reference(tmp_path):
    table = write_table(
        tmp_path / "t.arrow", [Row(text, None, None) for text in ("the good film", "bad plot", "x y z")]
    )
    tokenizer = tiny.tokenizer()
    other = trim_tokenizer(
        tokenizer, [number for number in range(tiny.SIZE) if number != tokenizer.token_to_id("plot")]
    )
    reference, data = (TASK.encode([table], one, tmp_path / name) for name, one in (("a", tokenizer), ("b", other)))
    assert len(reference.targets) < len(data.targets)  # "plot" is four letters now
    generator = np.random.default_rng(0)
    answers, theirs = (
        np.stack([np.log(generator.uniform(0.1, 1, len(each.targets))), np.zeros(len(each.targets))], 1).astype("f4")
        for each in (data, reference)
    )
    paired = compare_scores(TASK, answers, theirs, data, reference)
    before, after = (math.exp(-each[:, 0].sum() / len(theirs)) for each in (theirs, answers))
    assert paired.drop.value == pytest.approx(after / before - 1, rel=1e-5)
    assert paired.drop.low <= paired.drop.value <= paired.drop.high
    same = compare_scores(TASK, theirs, theirs, reference, reference)
    assert (same.kept.low, same.kept.high) == (1, 1)
