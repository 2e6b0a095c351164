"""Pairs of texts: parallel files, nested columns of the hub, rows without a translation."""

import gzip
import json

import datasets
import pytest

from lissom.data.cleaning import Cleaner
from lissom.data.config import DataParams
from lissom.data.parallel_text import read_pair
from lissom.data.prepare import load_table, prepare
from lissom.data.tables import Row
from lissom.errors import DataError


def test_parallel_texts_are_read_line_by_line(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 6), ("valid", 3), ("test", 3)):
        for language, word in (("en", "dog"), ("de", "Tier")):
            lines = "".join(f"{word} {name} {number}\n" for number in range(count))
            (folder / f"{name}.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    params = DataParams(source=f"files:{folder}", task="translation", text="en", label="de")
    out = tmp_path / "out"
    out.mkdir()
    card = prepare(params, out)
    assert (
        card.rows == {"train": 6, "dev": 3, "test": 3, "transfer": 0} and card.labels == () and card.label_counts == {}
    )
    assert next(load_table(out, "train").rows()) == Row("dog train 0", None, "Tier train 0")
    assert not [note for note in card.notes if "not read" in note]
    (folder / "test.de.gz").write_bytes(gzip.compress(b"one\n"))
    with pytest.raises(DataError, match=r"test\.de\.gz: ends after line 1"):
        prepare(params, out)
    (folder / "test.de.gz").unlink()
    with pytest.raises(DataError, match=r"one file test\.de is needed"):
        prepare(params, out)


def test_rows_without_a_translation_are_left_out(tmp_path):
    for name in ("train", "dev", "test"):
        rows = [
            {"text": "a dog", "label": "ein Tier"},
            {"text": "a house", "label": " "},
            {"text": "red", "label": None},
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    out.mkdir()
    card = prepare(DataParams(source=f"files:{tmp_path}", task="translation"), out)
    assert card.rows["train"] == 1 and any("2 rows without a label" in note for note in card.notes)


def test_nested_columns_of_the_hub(tmp_path, monkeypatch):
    features = datasets.Features({"translation": datasets.Translation(["en", "de"])})
    rows = [{"translation": {"en": f"dog {number}", "de": f"Tier {number}"}} for number in range(4)]
    split = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *_, **__: datasets.DatasetDict({"train": split, "validation": split, "test": split}),
    )
    params = DataParams(source="hub:a/b", task="translation", text="translation.en", label="translation.de")
    prepare(params, tmp_path)
    assert next(load_table(tmp_path, "test").rows()) == Row("dog 0", None, "Tier 0")
    with pytest.raises(DataError, match=r"no column \['translation.fr'\]"):
        prepare(params.model_copy(update={"label": "translation.fr"}), tmp_path)


def test_a_carriage_return_ends_no_line(tmp_path):
    (tmp_path / "t.en").write_bytes(b"one\rmore\r\ntwo\n")
    (tmp_path / "t.de").write_bytes(b"eins\r\nzwei\n")
    cleaner = Cleaner(DataParams(source="files:x", task="translation", text="en", label="de"))
    rows = list(read_pair((tmp_path / "t.en", tmp_path / "t.de"), ["en", "de"], cleaner))
    assert [(row.text, row.label) for row in rows] == [("one\rmore", "eins"), ("two", "zwei")]
