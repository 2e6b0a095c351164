"""Labels of words: spans as seqeval finds them, words in every tokenizer, and models, files and servers that answer them."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score
from seqeval.metrics.sequence_labeling import get_entities
from starlette.testclient import TestClient
from tokenizers import Tokenizer
from typer.testing import CliRunner

import lissom
from lissom import cli
from lissom.data.batches import collate
from lissom.data.labels import UNLABELLED
from lissom.data.tables import Row, write_table
from lissom.evaluate.paired import changed_answers, compare_scores
from lissom.export.config import ExportParams
from lissom.export.exported import split_answers
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity
from lissom.models.compressed import logits_of
from lissom.models.edits import FakeQuantize
from lissom.parallel.parts import split_batch
from lissom.prune.config import FirstOrderPruning
from lissom.prune.plan import plan
from lissom.quantize.int8 import calibrate
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.http import create_app
from lissom.serving.token_classification import first_tokens, spans_of, types_of, words_of
from lissom.tasks.span_meter import SpanMeter
from lissom.tasks.token_classification import TokenClassification
from lissom.tracking.answering import answer
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.predicting import predict
from tests.unit import tiny

LABELS = ("O", "B-film", "I-film", "B-verdict")
TASK = TokenClassification(name="words", labels=LABELS, pair=False, max_length=16)
SCHEMES = {
    "BIO": ["O", "B-a", "I-a", "B-b", "I-b"],
    "BIOES": ["O", "B-a", "I-a", "E-a", "S-a", "B-b", "I-b", "E-b", "S-b"],
}
TAGS = {"film": "B-film", "movie": "B-film", "plot": "I-film", "good": "B-verdict", "bad": "B-verdict"}
TEXTS = ["the film plot was good", "bad movie", "was the story not very good", "great scene", "a film"]


def tagged(text: str) -> Row:
    return Row(text, None, " ".join(TAGS.get(word, "O") for word in text.split(" ")))


def sentences(count: int, seed: int = 0) -> list[Row]:
    generator = random.Random(seed)
    return [tagged(" ".join(generator.choices(tiny.WORDS, k=generator.randint(1, 8)))) for _ in range(count)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_spans_are_those_of_seqeval(scheme):
    labels, generator = SCHEMES[scheme], random.Random(0)
    for _ in range(300):
        texts = [generator.choices(labels, k=generator.randint(1, 7)) for _ in range(3)]
        codes = np.asarray([labels.index(tag) for text in texts for tag in text])
        starts = np.cumsum([0, *map(len, texts)])[:-1]
        begins = np.isin(np.arange(len(codes)), starts)
        expected = [
            (start + first, start + last, types_of(labels).index(kind))
            for start, text in zip(starts, texts, strict=True)
            for kind, first, last in get_entities(text)
        ]
        assert sorted(map(tuple, spans_of(codes, labels, begins).tolist())) == sorted(expected)


def test_other_schemes_are_read_as_the_same_spans():
    bioes, bilou = ["O", "B-a", "I-a", "E-a", "S-a"], ["O", "B-a", "I-a", "L-a", "U-a"]
    codes, begins = np.asarray([1, 2, 3, 4, 4, 0, 3]), np.arange(7) == 0
    assert np.array_equal(spans_of(codes, bioes, begins), spans_of(codes, bilou, begins))
    bare = spans_of(np.asarray([1, 1, 2, 0, 1]), ["O", "person", "place"], np.arange(5) == 0)
    assert bare.tolist() == [[0, 1, 0], [2, 2, 1], [4, 4, 0]]


def test_the_f1_is_that_of_seqeval_however_the_texts_are_divided():
    labels, generator = SCHEMES["BIO"], random.Random(1)
    texts = [[generator.choices(labels, k=length) for _ in range(2)] for length in generator.choices(range(1, 9), k=80)]
    whole, parts = SpanMeter(labels), [SpanMeter(labels) for _ in range(3)]
    for number, (true, predicted) in enumerate(texts):
        codes = [np.asarray([labels.index(tag) for tag in tags]) for tags in (true, predicted)]
        targets = np.stack([codes[0], np.arange(len(true)) == 0], axis=1)
        parts[number % 3].add(np.eye(len(labels), dtype=np.float32)[codes[1]], targets)
    for part in parts:
        whole.merge(part)
    true, predicted = zip(*texts, strict=True)
    assert whole.result() == pytest.approx(f1_score(list(true), list(predicted)))
    report = classification_report(list(true), list(predicted), output_dict=True, zero_division=0)
    for kind, figures in whole.by_type().items():
        assert (
            figures["f1"] == pytest.approx(report[kind]["f1-score"]) and figures["support"] == report[kind]["support"]
        )


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_every_visible_character_is_in_one_word(text):
    words = words_of(text).tolist()
    inside = [place for start, end in words for place in range(start, end)]
    assert inside == sorted(set(inside)) and all(end > start for start, end in words)
    assert {place for place, character in enumerate(text) if not character.isspace()} == set(inside)


def test_words_are_as_people_see_them():
    text = "I'm in Baghdad. Mail jo@x.org! 東京 cafe\u0301s"
    shown = [text[start:end] for start, end in words_of(text)]
    assert shown == ["I'm", "in", "Baghdad", ".", "Mail", "jo@x.org", "!", "東", "京", "cafe\u0301s"]


@pytest.mark.parametrize("make", [tiny.tokenizer, tiny.byte_level_tokenizer, tiny.unigram_tokenizer])
def test_a_word_is_read_at_its_first_token(make):
    tokenizer: Tokenizer = make()
    text = "the plot was xqxq good"
    encoding = tokenizer.encode(text)
    words = words_of(text)
    offsets = np.asarray(encoding.offsets)
    places = first_tokens(words, offsets, np.asarray(encoding.special_tokens_mask) == 0)
    assert len(set(places.tolist())) == len(words) and (places > 0).all() and (np.diff(places) > 0).all()
    for (start, _), place in zip(words.tolist(), places.tolist(), strict=True):
        assert offsets[place, 0] <= start < offsets[place, 1] and offsets[place - 1, 1] <= start
    cut = encoding.ids[: places[3]]
    real = np.arange(len(encoding.ids)) < len(cut)
    real[0] = False
    assert first_tokens(words, offsets, real).tolist() == [*places[:3].tolist(), -1, -1]


@pytest.fixture
def data(tmp_path):
    table = write_table(
        tmp_path / "t.arrow", [*sentences(20), tagged(" ".join(["film"] * 30)), Row("a bad film!", None, None)]
    )
    return TASK.encode([table], tiny.tokenizer(), tmp_path / "tokens"), table


def test_rows_are_words(data):
    encoded, table = data
    words = [len(text.split()) for text, _ in table.texts()]
    assert len(encoded) == 22 and np.diff(encoded.row_offsets).tolist() == [*words[:-1], 4]
    assert TASK.count_rows([table], tiny.tokenizer()) == len(encoded.targets) == sum(words) + 1
    long = slice(encoded.row_offsets[20], encoded.row_offsets[21])
    assert (encoded.places[long] >= 0).sum() == 14 and (encoded.targets[long, 0] == 1).all()  # cut after 16 tokens
    assert (encoded.targets[-4:, 0] == UNLABELLED).all() and encoded.targets[-4:, 1].tolist() == [1, 0, 0, 0]
    assert 21 not in encoded.labelled(100) and len(encoded.labelled(100)) == 21
    batch = collate(encoded, np.asarray([3, 20, 0]), 0)
    outputs = torch.arange(3 * 16, dtype=torch.float32).reshape(3, 16, 1)
    rows = batch.outputs_of(outputs[:, : batch.ids.shape[1]])
    assert len(rows) == len(batch.targets) == words[3] + 30 + words[0]
    assert rows[words[3] + 14 : words[3] + 30].abs().sum() == 0  # what is cut off has no outputs


def test_some_examples_of_a_batch_are_those_of_the_data(data):
    encoded, _ = data
    batch = collate(encoded, np.asarray([3, 20, 0, 7]), 0)
    part, expected = batch.examples(torch.tensor([2, 0])), collate(encoded, np.asarray([0, 3]), 0)
    assert torch.equal(part.targets, expected.targets) and torch.equal(part.row_indices, expected.row_indices)
    assert torch.equal(part.token_rows.example, expected.token_rows.example)
    masked = batch.examples(torch.tensor([True, False, True, False]))
    assert torch.equal(masked.indices, torch.tensor([3, 0])) and len(masked.targets) == len(part.targets)


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_a_batch_add_up_to_its_loss(count, data):
    """Parts hold different numbers of words, and the loss is a mean over words."""
    encoded, _ = data
    network, loss = tiny.model("bert", task=TASK).network, against_targets(TASK)
    members = np.asarray([20, 1, 2, 3, 4, 5, 6])
    whole = loss(network, collate(encoded, members, 0)).detach()
    parts = split_batch(encoded, members, 0, count, range(count))
    total = sum(part.weight * loss(network, part.batch).detach() for part in parts)
    assert float(total) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("family", tiny.able("words"))
def test_every_family_labels_words_and_reloads(family, tmp_path):
    model = tiny.model(family, task=TASK)
    table = write_table(tmp_path / "t.arrow", sentences(12))
    encoded = TASK.encode([table], model.tokenizer, tmp_path / "tokens")
    logits = predict(model.network, encoded, model.pad_id)
    assert logits.shape == (len(encoded.targets), len(LABELS))
    lissom.save(model, tmp_path / "model")
    again = lissom.load(tmp_path / "model")
    assert torch.equal(predict(again.network, encoded, model.pad_id), logits)


@pytest.mark.parametrize("family", ["roberta", "modernbert", "gpt2"])
def test_the_exported_file_has_a_row_for_every_token(family, tmp_path):
    model = tiny.model(family, task=TASK)
    table = write_table(tmp_path / "t.arrow", sentences(12))
    encoded = TASK.encode([table], model.tokenizer, tmp_path / "tokens")
    (tmp_path / "export").mkdir()
    exported = export_onnx(model, tmp_path / "export")
    parity = check_parity(model, exported, encoded, ExportParams(float_tolerance=1e-3))
    assert parity.agreement == 1.0 and parity.examples == 12


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A teacher of the words' labels, and a pruned and quantised one."""
    folder = tmp_path_factory.mktemp("learnt")
    tables = {
        name: write_table(folder / f"{name}.arrow", sentences(count, seed))
        for name, count, seed in (("train", 200, 0), ("transfer", 0, 1), ("dev", 40, 2), ("test", 60, 3))
    }
    lesson = Lesson(tables=tables, scratch=folder)
    model = tiny.model("bert", task=TASK)
    params = FirstOrderPruning(
        method="first_order", neuron_multiple=8,
        training={"epochs": 4, "learning_rate": 3e-3, "freeze_word_table": False, "precision": "float32"},
    ).training  # fmt: skip
    data = lesson.encode(model, "train")
    lesson.train("teacher", model.network, data, model.pad_id, against_targets(TASK), params, identity="")
    small = lissom.load(saved(model, folder / "teacher"))
    recipe = plan(small, lesson, FirstOrderPruning(method="first_order", heads=0.5, neuron_multiple=8))
    small.edit(recipe.edits)
    small.edit([FakeQuantize()])
    calibrate(small.network, [collate(data, np.arange(64), small.pad_id)])
    files = {}
    for name, each in (("teacher", model), ("small", small)):
        (folder / f"export-{name}").mkdir()
        files[name] = export_onnx(each, folder / f"export-{name}")
    return model, small, lesson, files


def saved(model, folder):
    lissom.save(model, folder)
    return folder


def test_it_is_learnt_pruned_quantised_and_compared(learnt):
    model, small, lesson, files = learnt
    test = lesson.encode(model, "test")
    answers = {name: split_answers(file, test, TASK) for name, file in files.items()}
    quality = TASK.quality(answers["teacher"], answers["teacher"], test.targets, 15)
    assert quality.score > 0.95 and quality.examples == 60 and set(quality.per_label) == {"film", "verdict"}
    assert files["small"].kernels() > 0
    assert check_parity(small, files["small"], test, ExportParams(int8_tolerance=1.0, label_agreement=0.9)).agreement
    paired = compare_scores(TASK, answers["small"], answers["teacher"], test)
    assert paired.drop.low <= paired.drop.value <= paired.drop.high
    score = TASK.quality(answers["small"], answers["teacher"], test.targets, 15).score
    assert paired.drop.value == pytest.approx(quality.score - score)
    rows = changed_answers(TASK, answers["small"], answers["teacher"], test, lesson.tables["test"])
    differing = sum(
        not np.array_equal(answers["small"][part].argmax(1), answers["teacher"][part].argmax(1))
        for part in (slice(*pair) for pair in np.stack([test.row_offsets[:-1], test.row_offsets[1:]], 1))
    )
    assert len(rows) == differing
    assert all(row["teacher"] == row["label"] for row in rows if row["change"] == "lost")
    logits = np.eye(4, dtype=np.float32)[[0, 1, 2, 0, 3]]
    targets = np.asarray([[0, 1], [0, 0], [0, 0], [0, 1], [0, 0]])
    assert TASK.show_answers(logits, targets, ["the film plot", "was good"]) == ["film plot (film)", "good (verdict)"]
    assert TASK.show_label("O O", "was it") == "none"


def test_served_spans_are_those_of_torch_alone_and_together(learnt, tmp_path):
    model, _, _, files = learnt
    texts = ["the film plot was good.", "A bad movie", "", "Good!", " ".join(["film"] * 40)]
    classifier = OnnxClassifier(files["teacher"].folder)
    together = classifier.predict(texts)
    for text, one in zip(texts, together, strict=True):
        alone = classifier.predict([text])[0]["spans"]
        assert [{**span, "score": 0} for span in one["spans"]] == [{**span, "score": 0} for span in alone]
    assert [(span["text"], span["label"]) for span in together[0]["spans"]] == [
        ("film plot", "film"),
        ("good", "verdict"),
    ]
    for text, one in zip(texts, together, strict=True):
        for span in one["spans"]:
            assert text[span["start"] : span["end"]] == span["text"] and 0 < span["score"] <= 1
    assert together[2]["spans"] == [] and len(together[4]["spans"]) == 14  # the rest is beyond the longest input
    assert [one["truncated"] for one in together] == [False, False, False, False, True]
    client = TestClient(create_app(classifier, "tagger"))
    served = client.post("/predict", json={"texts": texts[-2:]}).json()["predictions"]
    assert [one["truncated"] for one in served] == [False, True]
    assert not classifier.predict(["Good film\u200b"])[0]["truncated"], "what no tokenizer reads is not cut off"
    shown = CliRunner().invoke(cli.app, ["predict", *texts[-2:], "--model", str(files["teacher"].folder)]).stdout
    assert shown.splitlines()[0].split() == ["spans", "truncated", "text"]
    shown = CliRunner().invoke(cli.app, ["predict", "Good!", "--model", str(files["teacher"].folder)]).stdout
    assert shown.splitlines()[0].split() == ["spans", "text"]
    _, by_torch = answer(texts, None, str(saved(model, tmp_path / "model")))
    for one, other in zip(together, by_torch, strict=True):
        assert [span["text"] for span in one["spans"]] == [span["text"] for span in other["spans"]]


def test_a_batch_has_the_logits_of_its_examples(learnt):
    model, _, lesson, _ = learnt
    data = lesson.encode(model, "dev")
    with torch.no_grad():
        whole = logits_of(model.network, collate(data, np.arange(8), model.pad_id))
        alone = [logits_of(model.network, collate(data, np.asarray([number]), model.pad_id)) for number in range(8)]
    assert torch.allclose(whole, torch.cat(alone), atol=1e-5)
