"""Translators with fewer tokens: those that no training text has are gone from tables, head, biases and tokenizers."""

import random

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForSeq2SeqLM

import lissom
from lissom.data.batches import collate
from lissom.data.tables import Row, write_table
from lissom.export.config import ExportParams
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity
from lissom.factorize.config import FactorizeMethod
from lissom.factorize.plan import plan
from lissom.models.compressed import logits_of
from lissom.models.edits import KeepVocabulary
from lissom.models.generation import TorchModel
from lissom.models.sites import tied_head
from lissom.serving.classifier import OnnxClassifier
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import CachedLogits, cache_logits
from tests.unit import test_two_tokenizers as two
from tests.unit.test_translation import FAMILIES, TRAINING, WORDS, model_of

PARAMS = {"method": "word_table", "training": TRAINING | {"epochs": 1, "loss": {"temperature": 1.0}}}
FEW = ("the", "dog", "sees")


def lesson_of(folder, words=FEW):
    generator = random.Random(0)
    tables = {}
    for name, count in (("train", 24), ("transfer", 0), ("dev", 8), ("test", 8)):
        texts = [generator.choices(words, k=5) for _ in range(count)]
        rows = (Row(" ".join(text), None, " ".join(WORDS[word] for word in text)) for text in texts)
        tables[name] = write_table(folder / f"{name}.arrow", rows)
    return Lesson(tables=tables, scratch=folder)


def trimmed(model, lesson, **changes):
    params = TypeAdapter(FactorizeMethod).validate_python(PARAMS | changes)
    return plan(model, lesson, params), params


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_has_the_logits_that_it_had(family, tmp_path):
    model, whole, lesson = model_of(family), model_of(family), lesson_of(tmp_path)
    for each in (model, whole):
        if family != "t5":
            torch.manual_seed(0)
            each.network.final_logits_bias.normal_()
    recipe, _ = trimmed(model, lesson)
    (edit,) = recipe.edits
    model.edit([edit])
    size = model.network.config.vocab_size
    assert isinstance(edit, KeepVocabulary) and len(edit.kept) == size < whole.network.config.vocab_size
    table, head = model.network.get_input_embeddings(), tied_head(model.network)
    assert table.weight.shape[0] == size and model.network.get_submodule(head).weight is table.weight
    data = [each.encode([lesson.tables["train"]], tmp_path / name) for each, name in ((model, "a"), (whole, "b"))]
    kept = np.asarray(edit.kept)
    assert np.array_equal(kept[data[0].tokens], data[1].tokens)
    assert np.array_equal(kept[data[0].targets], data[1].targets)
    batches = [collate(each, np.arange(6), one.pad_id) for each, one in zip(data, (model, whole), strict=True)]
    with torch.no_grad():
        ours, theirs = (logits_of(one.network, batch) for one, batch in zip((model, whole), batches, strict=True))
    assert torch.allclose(ours, theirs[:, kept], atol=1e-5)
    lissom.save(model, tmp_path / "model")
    again, plain = lissom.load(tmp_path / "model"), AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(logits_of(again.network, batches[0]), ours)
        assert torch.allclose(logits_of(plain.eval(), batches[0]), ours, atol=1e-5)
    assert TorchModel(again.network, 12).generate(batches[0]) == TorchModel(plain, 12).generate(batches[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_trained_and_exported(family, tmp_path):
    model, lesson = model_of(family), lesson_of(tmp_path)
    whole = lesson.texts(model)
    logits = CachedLogits(cache_logits(model.network.eval(), whole, model.pad_id, None, model.manifest.task))
    recipe, params = trimmed(model, lesson)
    result = compress(model, recipe, lesson, logits, params.training)
    assert result.metrics["vocabulary"] == model.network.config.vocab_size
    (tmp_path / "export").mkdir()
    file = export_onnx(model, tmp_path / "export")
    data = model.encode([lesson.tables["dev"]], tmp_path / "dev")
    assert check_parity(model, file, data, ExportParams(label_agreement=0.9)).max_logit_difference < 1e-4
    answers = OnnxClassifier(tmp_path / "export").predict(["the dog sees the dog", "the blue house"])
    written = TorchModel(model.network, 12, 4).generate(collate(data, np.arange(8), model.pad_id))
    assert all(isinstance(answer["translation"], str) for answer in answers) and len(written) == 8


def test_both_tokenizers_of_a_marian_checkpoint_are_trimmed(checkpoint, tmp_path):
    """Its padding, which the decoder reads first, is the last token, and has another number then."""
    model, whole = two.loaded(checkpoint), two.loaded(checkpoint)
    rows = zip(two.sentences(two.ENGLISH[:4], 1)[:40], two.sentences(two.GERMAN[:4], 1)[:40], strict=True)
    train = write_table(tmp_path / "train.arrow", [Row(text, None, label) for text, label in rows])
    lesson = Lesson(tables=dict.fromkeys(("train", "dev", "test"), train) | {
        "transfer": write_table(tmp_path / "none.arrow", [])
    }, scratch=tmp_path)  # fmt: skip
    recipe, _ = trimmed(model, lesson)
    model.edit(recipe.edits)
    size = model.network.config.vocab_size
    assert size < whole.network.config.vocab_size and model.pad_id == model.manifest.task.start_id == size - 1
    assert model.network.config.decoder_vocab_size == size
    kept = np.asarray(recipe.edits[0].kept)
    for ours, theirs, words in (
        (model.tokenizer, whole.tokenizer, two.ENGLISH[:4]), (model.target_tokenizer, whole.target_tokenizer, two.GERMAN[:4]),
    ):  # fmt: skip
        for text in two.sentences(words, 1)[:40]:
            assert kept[ours.encode(text).ids].tolist() == theirs.encode(text).ids
        assert ours.decode(ours.encode("while a boy runs").ids)  # any text has tokens
    lissom.save(model, tmp_path / "model")
    again, plain = lissom.load(tmp_path / "model"), AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    data = again.encode([train], tmp_path / "tokens")
    batch = collate(data, np.arange(8), again.pad_id)
    with torch.no_grad():
        assert torch.equal(logits_of(again.network, batch), logits_of(model.network.eval(), batch))
        assert torch.allclose(logits_of(plain.eval(), batch), logits_of(model.network, batch), atol=1e-5)
    (tmp_path / "export").mkdir()
    file = export_onnx(again, tmp_path / "export", beams=1)
    written = TorchModel(again.network, 40).generate(batch)
    assert file.generate(batch) == written
    assert OnnxClassifier(tmp_path / "export").predict([next(iter(train.texts()))[0]])


checkpoint = two.checkpoint
