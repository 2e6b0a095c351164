"""What `lissom compress MODEL DATA` takes for granted, and what it asks for."""

import gzip
import json

import datasets
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tokenizers import Tokenizer
from transformers import BertConfig, PreTrainedTokenizerFast

from lissom.errors import InputError
from lissom.params import load_params
from lissom.pipelines import assumptions
from lissom.pipelines.assumptions import write_params
from lissom.pipelines.columns import Columns, assume_columns
from tests.pipelines.conftest import write_base
from tests.unit import tiny
from tests.unit.test_translation import model_of, pairs_of

TEXTS = [f"a text of some words {number}" for number in range(40)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": TEXTS, "label": ["a", "b"] * 20}, Columns("text", None, "label", "classification")),
        ({"idx": range(40), "sentence": TEXTS, "label": [0, 1] * 20}, Columns("sentence", None, "label", "classification")),
        ({"Premise": TEXTS, "Hypothesis": TEXTS, "gold_label": ["x", "y"] * 20}, Columns("Premise", "Hypothesis", "gold_label", "classification")),
        ({"score": [n / 8 for n in range(40)], "sentence1": TEXTS, "sentence2": TEXTS}, Columns("sentence1", "sentence2", "score", "regression")),
        ({"ticket": TEXTS, "queue": ["billing", "sales"] * 20}, Columns("ticket", None, "queue", "classification")),
        ({"left": TEXTS, "right": TEXTS, "kind": ["a", "b"] * 20}, Columns("left", "right", "kind", "classification")),
        ({"ticket": TEXTS, "queue": ["a", "b"] * 20, "note": ["seen", *[""] * 39]}, Columns("ticket", None, "queue", "classification")),
        ({"text": TEXTS, "stars": ["1", "5"] * 20}, Columns("text", None, "stars", "classification")),
    ],
)  # fmt: skip
def test_columns_are_told_by_name_and_content(columns, expected):
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert assume_columns(rows, {}) == expected


def test_what_cannot_be_told_is_asked_for():
    kinds = ["a", "b"] * 20
    rows = [{"alpha": text, "beta": text, "gamma": text, "kind": kind} for text, kind in zip(TEXTS, kinds, strict=True)]
    with pytest.raises(InputError, match=r"alpha, beta, gamma, kind: name them with --set data\.text"):
        assume_columns(rows, {})
    assert assume_columns(rows, {"text": "beta"}) == Columns("beta", None, "kind", "classification")
    with pytest.raises(InputError, match="no column looks like a label"):
        assume_columns([{"text": text} for text in TEXTS], {})


def test_rows_may_lack_columns_and_names_are_checked():
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(TEXTS)]
    expected = Columns("text", None, "label", "classification")
    assert assume_columns([{**rows[0], "note": "seen"}, *rows[1:]], {}) == expected
    assert assume_columns([*rows[1:], {**rows[0], "note": "seen"}], {}) == expected
    with pytest.raises(InputError, match=r"data\.text: there is no column 'txt'; the columns are text, label"):
        assume_columns(rows, {"text": "txt"})
    with pytest.raises(InputError, match="train has no row"):
        assume_columns([], {})


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base")
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"text": f"the film was good {'very ' * (n % 9)}", "label": n % 2}) for n in range(60)]
    with gzip.open(tmp_path / "data" / "train.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    (tmp_path / "data" / "test.jsonl").write_text("\n".join(lines[:20]))
    return tmp_path


def test_the_written_params_are_valid_and_kept(place):
    lines = write_params(place / "params.yaml", "base", "data", ["teacher.seed=3", "gates.min_speedup={}"])
    params = load_params(place / "params.yaml")
    assert (
        params.teacher.seed == 3
        and params.gates.min_speedup == {}
        and params.data.text == "text"
        and 16 <= params.base.max_length <= 24
    )
    assert max(params.distill.blocks) == 3 and len(params.distill.blocks) == 2
    assert params.distill.training.epochs == 10  # little data: more updates
    assert any(line.startswith("base.max_length") for line in lines)
    assert params.gates.max_megabytes == 1  # not the bound of the demonstration, whose vocabulary is its own
    before = (place / "params.yaml").read_text()
    write_params(place / "params.yaml", "base", "data", ["teacher.seed=3", "gates.min_speedup={}"])
    assert (place / "params.yaml").read_text() == before
    with pytest.raises(InputError, match="holds other params"):
        write_params(place / "params.yaml", "base", "data")
    assert yaml.safe_load(before)["base"]["model"] == "dir:base"


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("nowhere", "data", "no such folder or GGUF file, and no name on the hub"),
        ("base", "nothing", "no such folder; hub:owner/name"),
        ("base", "data/test.jsonl", "a file; name a folder that holds train and test"),
        ("base", "base", "no train file"),
        ("data", "data", "model dir:data: cannot be loaded"),
    ],
)
def test_what_is_not_there_is_told(place, model, data, message):
    with pytest.raises(InputError, match=message):
        write_params(place / "params.yaml", model, data)
    assert not (place / "params.yaml").exists()


CHATS = [[{"role": "user", "content": f"what is {n}"}, {"role": "assistant", "content": "a number"}] for n in range(40)]


@pytest.mark.parametrize(
    ("writes", "columns", "given", "expected"),
    [
        ("language_modeling", {"text": TEXTS}, {}, Columns("text", None, None, "language_modeling")),
        ("language_modeling", {"id": range(40), "messages": CHATS, "source": ["a", "b"] * 20}, {}, Columns("messages", None, None, "language_modeling")),
        ("language_modeling", {"text": TEXTS, "label": ["a", "b"] * 20}, {}, Columns("text", None, "label", "classification")),
        ("language_modeling", {"text": TEXTS, "label": ["a", "b"] * 20}, {"task": "language_modeling"}, Columns("text", None, None, "language_modeling")),
        ("translation", {"id": range(40), "en": TEXTS, "de": TEXTS}, {}, Columns("en", None, "de", "translation")),
        ("translation", {"en": TEXTS, "de": TEXTS}, {"text": "de"}, Columns("de", None, "en", "translation")),
        (None, {"en": TEXTS, "de": TEXTS, "fr": TEXTS}, {"task": "translation", "text": "en", "label": "fr"}, Columns("en", None, "fr", "translation")),
    ],
)  # fmt: skip
def test_what_a_model_writes_tells_the_columns(writes, columns, given, expected):
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert assume_columns(rows, given, writes) == expected
    with pytest.raises(InputError, match="look like a text and its translation; the columns are en, de, fr"):
        assume_columns([dict.fromkeys(("en", "de", "fr"), "a text")] * 3, {}, "translation")


def _write_split(folder, rows):
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_params_of_a_language_model(place):
    tiny.CONFIGS["llama"]().save_pretrained(place / "llama")
    (place / "texts").mkdir()
    for split in ("train", "test"):
        (place / "texts" / f"{split}.txt").write_text("A book of several words.\n" * 40)
    lines = write_params(place / "params.yaml", "llama", "texts")
    params = load_params(place / "params.yaml")
    assert params.data.task == "language_modeling" and params.base.max_length <= 256
    assert params.distill.method == "logits" and params.distill.blocks == (0, 1, 3)
    assert not params.factorize and params.quantize[0].training.loss.temperature == 1
    assert any("data.task: language_modeling, of texts alone" in line for line in lines)


def test_params_of_a_translator(place):
    model = model_of("t5")
    model.network.config.save_pretrained(place / "t5")
    PreTrainedTokenizerFast(tokenizer_object=model.tokenizer).save_pretrained(place / "t5")
    _write_split(place / "pairs", [{"en": row.text, "de": row.label} for row in pairs_of(60)])
    lines = write_params(place / "params.yaml", "t5", "pairs")
    params = load_params(place / "params.yaml")
    assert (params.data.task, params.data.text, params.data.label) == ("translation", "en", "de")
    assert params.distill.method == "sequence" and params.distill.blocks == params.distill.decoder_blocks == (0, 2)
    assert 16 <= params.base.max_length <= 64 and any("'de', the translations" in line for line in lines)


def test_the_bound_on_size_follows_from_the_model(place):
    """A byte for each parameter: what int8 alone would leave."""
    config = BertConfig(
        vocab_size=30_522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    config.save_pretrained(place / "base")
    lines = write_params(place / "params.yaml", "base", "data")
    assert load_params(place / "params.yaml").gates.max_megabytes == 23
    assert any("each of the model's 22.7 M parameters" in line for line in lines)


def test_a_section_is_no_word(place):
    with pytest.raises(InputError, match=r"--set data=foo: data is a mapping; set a key of it, data\.KEY=VALUE"):
        write_params(place / "params.yaml", "base", "data", ["data=foo"])
    write_params(
        place / "params.yaml", "base", "data", ["parallel=auto", "prune=[{method: blocks, blocks: 1}]", "quantize=[]"]
    )
    params = load_params(place / "params.yaml")
    assert (
        params.parallel == "auto" and [method.method for method in params.prune] == ["blocks"] and not params.quantize
    )


def test_classes_are_counted_in_all_rows(place, monkeypatch):
    """A file that is sorted by label begins with many rows of one."""
    monkeypatch.setattr(assumptions, "_SAMPLE", 30)
    lines = [json.dumps({"text": f"a film of some words {n}", "label": f"class {n // 10}"}) for n in range(60)]
    (place / "data" / "train.jsonl.gz").unlink()
    (place / "data" / "train.jsonl").write_text("\n".join(lines))
    assert "data.label: 'label', 6 classes (data.task: classification)" in write_params(
        place / "p.yaml", "base", "data"
    )


def test_padding_of_the_models_own_tokenizer_is_no_length(place):
    """all-MiniLM's tokenizer.json pads every text to 128 tokens."""
    tokenizer = Tokenizer.from_file(str(place / "base" / "tokenizer.json"))
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(place / "base" / "tokenizer.json"))
    write_params(place / "params.yaml", "base", "data")
    assert load_params(place / "params.yaml").base.max_length == 16


def test_a_data_set_of_the_hub_is_looked_at(place, monkeypatch):
    """Classes are numbers there, which are no quantities; -1 is no label."""
    names = Features(utterance=Value("string"), intent=ClassLabel(names=[f"class {n}" for n in range(30)]))
    rows = [{"utterance": f"some words {n}", "intent": n % 31 - 1} for n in range(310)]
    train = Dataset.from_list(rows, features=names)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: DatasetDict(train=train, test=train))
    told = write_params(place / "params.yaml", "base", "hub:owner/intents")
    data = load_params(place / "params.yaml").data
    assert (data.text, data.label, data.task) == ("utterance", "intent", "classification")
    assert any("30 classes" in line for line in told)


def test_an_embedded_data_set_that_is_not_there_is_refused_before_anything_is_written(place):
    with pytest.raises(InputError, match="embedded:python-doc: is not known; allowed: embedded:python-docs"):
        write_params(place / "params.yaml", "base", "embedded:python-doc")
    assert not (place / "params.yaml").exists()
