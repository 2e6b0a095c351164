"""A classifier of mean-pooled token vectors: what enters the mean, what pairs are compared by, what it starts from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import processors

from lissom.data.batches import collate
from lissom.data.tables import Row, write_table
from lissom.export.config import ExportParams
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.edits import FactorizeWordTable, FakeQuantize, KeepVocabulary
from lissom.models.static import mean_of, pair_features
from lissom.models.static_student import leading_directions, static_student, weigh_by_rarity
from lissom.quantize.int8 import calibrate
from lissom.serving.classifier import OnnxClassifier
from tests.unit import tiny

TEXTS = ["the good film", "a very dull plot was not great", "film", "the ending is fine"]


def student(family: str = "bert", pair: bool = False) -> CompressedModel:
    source = tiny.model(family, task=tiny.TASK.model_copy(update={"pair": pair}))
    return static_student(source, embedding=16, classifier=12, dropout=0.2, seed=0)


def encoded(model: CompressedModel, folder, texts=TEXTS, pairs=None):
    rows = [
        Row(text, None if pairs is None else pair, "good")
        for text, pair in zip(texts, pairs or texts, strict=True)
    ]  # fmt: skip
    return model.manifest.task.encode([write_table(folder / "t.arrow", rows)], model.tokenizer, folder / "tokens")


def test_the_mean_is_over_real_tokens():
    vectors = torch.tensor([[[1.0, 4.0], [3.0, 0.0], [100.0, -100.0]]])
    assert mean_of(vectors, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 2.0]]
    assert mean_of(vectors, torch.tensor([[0, 0, 0]])).tolist() == [[0.0, 0.0]]


def test_padding_and_the_order_of_tokens_change_nothing():
    model, batch = student(), tiny.batch("bert")
    flipped = replace(batch, inputs={name: tensor.flip(1) for name, tensor in batch.inputs.items()})
    other = replace(batch, inputs={**batch.inputs, "input_ids": torch.where(batch.mask.bool(), batch.ids, 7)})
    with torch.no_grad():
        expected = logits_of(model.network, batch)
        for changed in (flipped, other):
            assert torch.allclose(logits_of(model.network, changed), expected, atol=1e-6)


def test_what_compares_two_texts_is_symmetric_and_the_rest_is_not():
    first, second = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).unsqueeze(1)
    there, back = (pair_features(*texts)[0].chunk(4) for texts in ((first, second), (second, first)))
    assert torch.equal(there[0], back[1]) and torch.equal(there[1], back[0]) and not torch.equal(there[0], back[0])
    assert torch.equal(there[2], back[2]) and torch.equal(there[3], back[3])
    same = pair_features(first, first)[0].chunk(4)
    assert not same[2].any() and torch.equal(same[3], first[0].square())


@pytest.mark.parametrize("pair", [False, True])
def test_special_tokens_are_left_out_and_second_texts_have_their_segment(pair, tmp_path):
    source = tiny.model("roberta", task=tiny.TASK.model_copy(update={"pair": pair}))
    source.tokenizer.post_processor = processors.TemplateProcessing(  # no segments, as RoBERTa's
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    model = static_student(source, embedding=16, classifier=12, dropout=0.2, seed=0)
    data = encoded(model, tmp_path, ["the good film"], ["bad plot"] if pair else None)
    words = ["the", "good", "film", *(["bad", "plot"] if pair else [])]
    assert [tiny.VOCABULARY[number] for number in data.tokens] == words
    assert data.types.tolist() == [0, 0, 0, *([1, 1] if pair else [])]
    assert "[CLS]" in source.tokenizer.encode("the film").tokens  # the source's own is as it was


def test_vectors_keep_their_distances_at_full_width_and_most_of_them_below():
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5.0, *[0.3] * 6]) + 3
    full, thin, wide = (leading_directions(vectors, size) for size in (8, 2, 11))
    assert full.square().mean() == pytest.approx(1) and thin.square().mean() == pytest.approx(1)
    expected = torch.cdist(vectors, vectors)
    for reduced, least in ((full, 0.9999), (wide, 0.9999), (thin, 0.99)):
        actual = torch.cdist(reduced, reduced)
        assert torch.corrcoef(torch.stack([actual.flatten(), expected.flatten()]))[0, 1] > least
    assert not wide[:, 8:].any()
    few = leading_directions(vectors[:3], 6)  # fewer rows than columns: no direction is made up
    assert few.isfinite().all() and torch.allclose(few[:, 3:], torch.zeros(3, 3), atol=1e-5)


def test_frequent_tokens_weigh_less():
    model = student()
    before = model.network.embeddings.word_embeddings.weight.detach().clone()
    counts = np.zeros(tiny.SIZE, dtype=np.int64)
    counts[5], counts[6] = 999, 1
    weigh_by_rarity(model, counts)
    ratio = model.network.embeddings.word_embeddings.weight.detach() / before
    assert ratio[5, 0] == pytest.approx(1e-3 / (1e-3 + 0.999), rel=1e-4)
    assert ratio[6, 0] == pytest.approx(0.5, rel=1e-4) and ratio[7, 0] == 1


@pytest.mark.parametrize("pair", [False, True])
def test_trimmed_factorised_and_quantised_it_is_exported(pair, tmp_path):
    model = student(pair=pair)
    data = encoded(model, tmp_path, pairs=TEXTS[::-1] if pair else None)
    batch = collate(data, np.arange(len(data)), model.pad_id)
    with torch.no_grad():
        expected = logits_of(model.network, batch)
    kept = sorted({0, 1, 2, 3, *data.tokens.tolist()})
    model.edit([KeepVocabulary(kept=tuple(kept))])
    (tmp_path / "trimmed").mkdir()
    trimmed = encoded(model, tmp_path / "trimmed", pairs=TEXTS[::-1] if pair else None)
    batch = collate(trimmed, np.arange(len(trimmed)), model.pad_id)
    with torch.no_grad():
        assert torch.allclose(logits_of(model.network, batch), expected, atol=1e-6)
    model.edit([FactorizeWordTable(rank=4), FakeQuantize()])
    calibrate(model.network, [batch])
    (tmp_path / "export").mkdir()
    exported = export_onnx(model, tmp_path / "export")
    assert exported.kernels() == 2  # the projection of the table, and the layer before the logits
    assert check_parity(model, exported, trimmed, ExportParams()).max_logit_difference < 1e-3


def test_an_empty_text_is_answered(tmp_path):
    export_onnx(student(), tmp_path)
    empty, beside = OnnxClassifier(tmp_path).predict([""])[0], OnnxClassifier(tmp_path).predict(["", "the film"])[0]
    assert empty["probabilities"] == pytest.approx(beside["probabilities"])
    json.dumps(empty)
