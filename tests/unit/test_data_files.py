"""Files as other programs write them."""

import codecs
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lissom.data.config import DataParams
from lissom.data.prepare import load_table
from lissom.errors import DataError
from tests.unit.test_data import ROWS, run, tsv, write


def csv_of(rows, end="\n"):
    return end.join(["text,label", *(f'"{text}","{label}"' for text, label in rows)]) + end


def rows_of(output, split="train"):
    return [(row.text, row.label) for row in load_table(output, split).rows()]


def folder_with(tmp_path, **files):
    return write(tmp_path / "d", **{"dev_tsv": tsv(ROWS[:4]), "test_tsv": tsv(ROWS[:4]), **files})


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + csv_of(ROWS).encode(),
        csv_of(ROWS).encode("utf-16"),
        codecs.BOM_UTF16_BE + csv_of(ROWS).encode("utf-16-be"),
        csv_of(ROWS).encode("utf-32"),
        csv_of(ROWS, "\r\n").encode(),
        ("\n" + csv_of(ROWS, "\n\n") + "  \n,\n\n").encode(),
    ],
)
def test_marks_line_ends_and_blank_lines_change_nothing(content, tmp_path):
    _, output = run(folder_with(tmp_path, train_csv=content), tmp_path)
    assert rows_of(output) == ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n \n"])
def test_marks_and_blank_lines_in_json_lines(end, tmp_path):
    lines = end.join(json.dumps({"text": text, "label": label}) for text, label in ROWS) + end
    _, output = run(folder_with(tmp_path, train_jsonl=codecs.BOM_UTF8 + lines.encode()), tmp_path)
    assert rows_of(output) == ROWS


@pytest.mark.parametrize("make", [tsv, csv_of])
def test_a_very_long_text_is_read(make, tmp_path):
    long = ("word " * 60_000, "yes")
    _, output = run(folder_with(tmp_path, **{f"train_{make.__name__[:3]}": make([*ROWS, long])}), tmp_path)
    assert rows_of(output)[-1] == long


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_dev_has_other_names(name, tmp_path):
    files = {"train_tsv": tsv(ROWS), "test_tsv": tsv(ROWS[:4]), f"{name}_tsv": tsv(ROWS[:6])}
    card, _ = run(write(tmp_path / "d", **files), tmp_path)
    assert card.rows["dev"] == 6 and card.rows["train"] == 40 and not card.notes
    with pytest.raises(DataError, match=rf"dev.tsv, {name}.tsv all claim to be dev; keep one"):
        run(write(tmp_path / "d", dev_tsv=tsv(ROWS)), tmp_path)


def test_a_table_that_is_not_read_is_told(tmp_path):
    params = folder_with(tmp_path, train_tsv=tsv(ROWS), extra_csv=csv_of(ROWS), more_tsv="text\nhello\n")
    (tmp_path / "d" / "README.md").write_text("no table")
    card, _ = run(params.model_copy(update={"transfer": str(tmp_path / "d" / "more.tsv")}), tmp_path)
    assert [note for note in card.notes if "not read" in note] == [
        "extra.csv is not read: its name is none of train, dev (validation, valid, val) and test, or its format none of "
        "tsv, csv, jsonl, parquet, conll, txt"
    ]


def test_empty_texts_are_dropped_and_counted_or_refused(tmp_path):
    rows = [*ROWS[:3], ("", "yes"), (" \u3000", "no"), *ROWS[3:]]
    params = folder_with(tmp_path, train_tsv=tsv(rows), test_tsv=tsv([*ROWS[:4], ("", "no")]))
    card, output = run(params, tmp_path)
    assert rows_of(output) == ROWS and card.rows["test"] == 4
    assert card.notes == (
        "train: 2 rows with an empty text are left out",
        "test: 1 rows with an empty text are left out",
    )
    with pytest.raises(DataError, match=r"train.tsv, line 5: column 'text' is ''.*empty_texts: drop"):
        run(params.model_copy(update={"empty_texts": "refuse"}), tmp_path)


def test_missing_labels_are_left_out_and_counted(tmp_path):
    rows = [*ROWS, ("no label", None), ("blank label", " "), (None, "yes")]
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    card, output = run(folder_with(tmp_path, train_jsonl=lines), tmp_path)
    assert rows_of(output) == ROWS
    assert card.notes == (
        "train: 1 rows with an empty text are left out", "train: 2 rows without a label are left out"
    )  # fmt: skip


def test_a_text_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 1: column 'text' is 7, a int; a text is needed"):
        run(folder_with(tmp_path, train_jsonl='{"text": 7, "label": "yes"}\n'), tmp_path)


def test_hub_labels_of_minus_one_are_left_out(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    folder = tmp_path / "repo"
    folder.mkdir()
    for split, labels in (("train", [0, 1, -1, None] * 10), ("test", [0, 1, -1])):
        table = {"text": [f"text {number} of {split}" for number in range(len(labels))], "label": labels}
        datasets.Dataset.from_dict(table, features=features).to_parquet(str(folder / f"{split}.parquet"))
    card, _ = run(DataParams(source=f"hub:{folder}"), tmp_path)
    assert card.label_counts["test"] == {"no": 1, "yes": 1}
    assert card.notes[:2] == (
        "train: 20 rows without a label are left out",
        "test: 1 rows without a label are left out",
    )


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "csv"])
def test_a_damaged_compressed_file_is_told_in_one_line(kind, tmp_path):
    texts = [f"{text} {number * 7919 % 1000003}" for number, (text, _) in enumerate(ROWS * 100)]
    lines = {
        "tsv": tsv([(text, "yes") for text in texts]),
        "csv": csv_of([(text, "yes") for text in texts]),
        "jsonl": "".join(json.dumps({"text": text, "label": "yes"}) + "\n" for text in texts),
    }[kind]
    whole = gzip.compress(lines.encode())
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    for content, reason in ((whole[: len(whole) // 2], "cut off"), (bytes(damaged), "cannot be read|not UTF-8|line")):
        with pytest.raises(DataError, match=reason) as caught:
            run(folder_with(tmp_path, **{f"train_{kind}_gz": content}), tmp_path)
        assert "\n" not in str(caught.value) and f"train.{kind}.gz" in str(caught.value)


def test_half_a_surrogate_pair_is_replaced_and_told(tmp_path):
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)
    lines += '{"text": "broken \\ud83d emoji, whole \\ud83d\\ude00", "label": "yes"}\n'
    card, output = run(folder_with(tmp_path, train_jsonl=lines), tmp_path)
    assert rows_of(output)[-1][0] == "broken \ufffd emoji, whole \U0001f600"
    assert card.notes[0].startswith("train: 1 texts have half of a surrogate pair")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    content = "text,label,text,,\n" + "".join(f"{text},{label},other,,\n" for text, label in ROWS)
    with pytest.raises(DataError, match="column 'text' is there 2 times"):
        run(folder_with(tmp_path, train_csv=content), tmp_path)
    _, output = run(folder_with(tmp_path, train_csv=content.replace("text", "words", 1)), tmp_path)
    assert rows_of(output)[0] == ("other", "yes")


def test_missing_values_of_parquet(tmp_path):
    table = pa.table(
        {"text": [*(t for t, _ in ROWS), None, "x"], "label": [*(label for _, label in ROWS), "yes", None]}
    )
    pq.write_table(table, tmp_path / "p.parquet")
    _, output = run(folder_with(tmp_path, train_parquet=(tmp_path / "p.parquet").read_bytes()), tmp_path)
    assert rows_of(output) == ROWS


def test_the_only_text_of_a_label_stays_in_train(tmp_path):
    files = {"train_tsv": tsv([*ROWS, ("a single one", "rare")]), "test_tsv": tsv(ROWS[:4])}
    card, output = run(write(tmp_path / "d", **files), tmp_path)
    assert ("a single one", "rare") in rows_of(output) and "rare" not in card.label_counts["dev"]
    assert any("a single text, which stays in train: rare" in note for note in card.notes)


def test_a_label_called_nan_has_its_place_among_the_names():
    from lissom.data.prepare import _numbers_first

    orders = [
        sorted(labels, key=_numbers_first) for labels in (["nan", "1", "a"], ["a", "nan", "1"], ["1", "a", "nan"])
    ]
    assert orders == [["1", "a", "nan"]] * 3


@pytest.mark.parametrize(("value", "expected"), [(1.0, "1"), (1, "1"), ("1.0", "1.0"), (True, "True")])
def test_a_whole_number_is_the_same_class_in_either_form(value, expected):
    from lissom.data.labels import label_text

    assert label_text(value, DataParams(source="files:x"), "here") == expected


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\u00a0\u200e", "\x00"])
def test_a_text_without_a_visible_character_is_empty(text, tmp_path):
    card, output = run(
        folder_with(
            tmp_path,
            train_jsonl="".join(
                json.dumps({"text": row, "label": label}) + "\n" for row, label in [*ROWS, (text, "yes")]
            ),
        ),
        tmp_path,
    )
    assert rows_of(output) == ROWS and card.notes == ("train: 1 rows with an empty text are left out",)


def test_names_of_files_may_be_written_large(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "Train.CSV").write_text(csv_of(ROWS))
    (folder / "VALIDATION.csv").write_text(csv_of(ROWS[:4]))
    (folder / "Test.CSV.GZ").write_bytes(gzip.compress(csv_of(ROWS[:4]).encode()))
    card, output = run(DataParams(source=f"files:{folder}"), tmp_path)
    assert rows_of(output) == ROWS and card.rows["test"] == card.rows["dev"] == 4
