import bz2
import gzip
import json
import lzma
import tracemalloc
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lissom.data import python_docs, splits
from lissom.data.config import DataParams
from lissom.data.encoding import encode
from lissom.data.prepare import load_card, load_table, prepare
from lissom.data.tables import Row, write_table
from lissom.errors import DataError
from lissom.tasks.kinds import task_of
from tests.unit import tiny

ROWS = [(f"text number {n} says {word}", word) for n, word in enumerate(["yes", "no"] * 20)]


def tsv(rows, header="text\tlabel"):
    return "\n".join([header, *("\t".join(row) for row in rows)]) + "\n"


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return DataParams(source=f"files:{folder}")


def run(params, tmp_path):
    output = tmp_path / "out"
    output.mkdir(exist_ok=True)
    return prepare(params, output), output


def test_all_formats_give_the_same_table(tmp_path):
    text = tsv(ROWS)
    jsonl = "".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in ROWS)
    csv = "text,label\n" + "".join(f'"{t}","{label}"\n' for t, label in ROWS)
    pq.write_table(
        pa.table({"text": [t for t, _ in ROWS], "label": [label for _, label in ROWS]}), tmp_path / "p.parquet"
    )
    contents = {
        "train_tsv": text, "train_csv": csv, "train_jsonl": jsonl, "train_parquet": (tmp_path / "p.parquet").read_bytes(),
        "train_tsv_gz": gzip.compress(text.encode()), "train_tsv_xz": lzma.compress(text.encode()),
        "train_tsv_bz2": bz2.compress(text.encode()),
    }  # fmt: skip
    for name, content in contents.items():
        params = write(tmp_path / name, **{name: content, "dev_tsv": tsv(ROWS[:4]), "test_tsv": tsv(ROWS[:4])})
        card, output = run(params, tmp_path)
        assert card.rows == {"train": 40, "dev": 4, "test": 4, "transfer": 0}, name
        assert [(row.text, row.label) for row in load_table(output, "train").rows()] == ROWS


def test_quotation_marks_in_a_tsv_are_text(tmp_path):
    rows = [('"quoted" start', "yes"), ('no "end', "no")]
    _, output = run(write(tmp_path / "d", train_tsv=tsv(rows + ROWS), test_tsv=tsv(rows)), tmp_path)
    assert [row.text for row in load_table(output, "test").rows()] == [text for text, _ in rows]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train_tsv": tsv(ROWS)}, "no test set"),
        ({"test_tsv": tsv(ROWS)}, "no train set"),
        ({"train_tsv": tsv(ROWS, "words\tlabel"), "test_tsv": tsv(ROWS)}, "no column 'text'; found words, label"),
        (
            {"train_tsv": tsv([*ROWS, ("one", "two", "three")]), "test_tsv": tsv(ROWS)},
            "line 42: 3 columns, the header has 2",
        ),
        ({"train_tsv": tsv(ROWS), "test_tsv": tsv([("a", "maybe")])}, "test has labels that train has not: 'maybe'"),
        ({"train_tsv": tsv(ROWS), "test_tsv": "text\tlabel\n"}, "test is empty"),
        ({"train_tsv": tsv(ROWS).encode() + b"\xe4\tyes\n", "test_tsv": tsv(ROWS)}, "not UTF-8"),
        ({"train_tsv": tsv(ROWS).encode("utf-16-le"), "test_tsv": tsv(ROWS)}, "UTF-16 without a byte order mark"),
        ({"train_tsv": tsv(ROWS), "test_tsv": tsv([("x", "")])}, "test is empty; test: 1 rows without a label"),
        ({"train_tsv": tsv(ROWS), "eval_tsv": tsv(ROWS)}, "no test set.*eval.tsv is not read"),
        ({"train_tsv": tsv([("x", "yes")] * 5), "test_tsv": tsv(ROWS)}, "one label only"),
        ({"train_tsv": tsv(ROWS), "test_tsv": tsv([("x", "yes")])}, "all rows of test have the label 'yes'"),
        ({"train_json": "[]", "test_tsv": tsv(ROWS)}, "no train set.*train.json is not read.*its format none of tsv"),
        ({"train_jsonl": '{"text": "x"\n', "test_tsv": tsv(ROWS)}, "line 1: not JSON"),
        ({"train_jsonl": '["x"]\n', "test_tsv": tsv(ROWS)}, "an object is expected"),
        ({"train_tsv": tsv(ROWS), "train_csv": "text,label\n", "test_tsv": tsv(ROWS)}, "all claim to be train"),
        ({"train_parquet": b"PAR1 broken", "test_tsv": tsv(ROWS)}, "not a parquet file"),
        ({"train_tsv_gz": b"\x1f\x8bbroken", "test_tsv": tsv(ROWS)}, "cannot be read|not UTF-8"),
    ],
)
def test_mistakes_are_told_with_their_place(files, message, tmp_path):
    with pytest.raises(DataError, match=message):
        run(write(tmp_path / "d", **files), tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        run(DataParams(source=f"files:{tmp_path / 'none'}"), tmp_path)


def test_dev_is_held_out_stratified_without_duplicates(tmp_path):
    rows = [(f"text {n}", "yes" if n % 4 else "no") for n in range(200)]
    repeated = [*rows, *((text.upper() + "!", label) for text, label in rows[:50])]
    card, output = run(write(tmp_path / "d", train_tsv=tsv(repeated), test_tsv=tsv(rows[:5])), tmp_path)
    train, dev = (
        [row.text.lower().rstrip("!") for row in load_table(output, split).rows()] for split in ("train", "dev")
    )
    assert not set(train) & set(dev) and len(dev) == len(set(dev)) == 20
    assert card.label_counts["dev"] == {"yes": 15, "no": 5}
    assert card.duplicates["within train"] == 50 and card.duplicates["test in train"] == 5


def test_subsets_are_stratified_seeded_and_nested(tmp_path):
    params = write(tmp_path / "d", train_tsv=tsv(ROWS), dev_tsv=tsv(ROWS[:4]), test_tsv=tsv(ROWS[:4]))
    texts = {}
    for count in (10, 20):
        card, output = run(params.model_copy(update={"train_examples": count}), tmp_path)
        assert card.label_counts["train"] == {"yes": count / 2, "no": count / 2}
        texts[count] = {row.text for row in load_table(output, "train").rows()}
    assert texts[10] < texts[20]


def test_transfer_texts_carry_no_label(tmp_path):
    params = write(tmp_path / "d", train_tsv=tsv(ROWS), dev_tsv=tsv(ROWS[:4]), test_tsv=tsv(ROWS[:4]))
    (tmp_path / "more.tsv").write_text("text\nhello\nworld\n")
    card, output = run(params.model_copy(update={"transfer": str(tmp_path / "more.tsv")}), tmp_path)
    table = load_table(output, "transfer")
    assert [(row.text, row.label) for row in table.rows()] == [("hello", None), ("world", None)]
    tokenizer = tiny.tokenizer()
    data = encode([load_table(output, "train"), table], tokenizer, 16, task_of(card, 16).targets, tmp_path / "tokens")
    assert data.targets[-2:].tolist() == [-1, -1] and len(data) == 42
    assert load_card(output) == card


def transfer_of(params, tmp_path, **changes):
    card, output = run(params.model_copy(update=changes), tmp_path)
    notes = [note for note in card.notes if note.startswith("transfer")]
    return [row.text for row in load_table(output, "transfer").rows()], notes


def test_a_plain_file_of_transfer_texts_has_one_on_every_line(tmp_path):
    params = write(tmp_path / "d", train_tsv=tsv(ROWS), test_tsv=tsv(ROWS))
    (tmp_path / "more.txt").write_text("first text\n\nsecond text\nthird text")
    card, output = run(params.model_copy(update={"transfer": str(tmp_path / "more.txt")}), tmp_path)
    assert [row.text for row in load_table(output, "transfer").rows()] == ["first text", "second text", "third text"]
    assert "transfer: 1 rows with an empty text are left out" in card.notes


def test_texts_without_letters_are_texts_of_their_own(tmp_path):
    rows = [(chr(0x1F600 + number), ("yes", "no")[number % 2]) for number in range(40)]
    card, _ = run(write(tmp_path / "d", train_tsv=tsv(rows), test_tsv=tsv(rows[:4])), tmp_path)
    assert card.rows["dev"] > 0 and card.duplicates["within train"] == 0 and card.duplicates["test in train"] == 4


def test_as_many_transfer_texts_are_taken_as_asked(tmp_path):
    """A seeded sample of the whole file, which may be sorted; null takes all of it, 0 nothing."""
    params = write(tmp_path / "d", train_tsv=tsv(ROWS), dev_tsv=tsv(ROWS[:4]), test_tsv=tsv(ROWS[:4]))
    texts = [f"unlabelled text {number}" for number in range(200)]
    (tmp_path / "more.tsv").write_text("\n".join(["text", *texts]) + "\n")
    params = params.model_copy(update={"transfer": str(tmp_path / "more.tsv")})
    assert transfer_of(params, tmp_path) == (texts, [])
    assert transfer_of(params, tmp_path, transfer_examples=0)[0] == []
    some, notes = transfer_of(params, tmp_path, transfer_examples=50)
    assert len(set(some)) == 50 and set(some) <= set(texts) and notes == ["transfer: 50 of 200 rows, drawn at random"]
    numbers = [texts.index(text) for text in some]
    assert abs(sum(numbers) / 50 - 99.5) < 3 * 57.7 / 50**0.5  # the mean of 50 of 200 uniform numbers
    assert transfer_of(params, tmp_path, transfer_examples=50)[0] == some
    other = transfer_of(params, tmp_path, transfer_examples=50, seed=1)[0]
    assert set(other) != set(some)
    assert transfer_of(params, tmp_path, transfer_examples=300) == (
        texts, ["transfer: 200 rows, fewer than the 300 asked for"],
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, 7])
def test_the_embedded_source_makes_as_many_transfer_texts_as_asked(count, tmp_path):
    params = DataParams(source="embedded:python-docs", train_examples=50, transfer_examples=count)
    card, output = run(params, tmp_path)
    assert card.rows["transfer"] == len(load_table(output, "transfer")) == count


@pytest.mark.parametrize("has_dev", [True, False])
def test_no_transfer_text_is_in_dev_or_test(has_dev, tmp_path):
    """Case and punctuation aside; what is in train may be there once more."""
    files = {"dev_tsv": tsv(ROWS[:4])} if has_dev else {}
    train = [(f"train text {number}", label) for number, (_, label) in enumerate(ROWS)]
    params = write(tmp_path / "d", train_tsv=tsv(train), test_tsv=tsv(ROWS[10:14]), **files)
    more = [text.upper() + " !" for text, _ in [*ROWS, *train]]
    (tmp_path / "more.tsv").write_text("\n".join(["text", *more]) + "\n")
    taken, notes = transfer_of(params, tmp_path, transfer=str(tmp_path / "more.tsv"))
    held_out = {
        splits.normalised(row.text) for split in ("dev", "test") for row in load_table(tmp_path / "out", split).rows()
    }
    assert len(held_out) == 8
    assert taken == [text for text in more if splits.normalised(text) not in held_out] and len(taken) == 72
    assert notes == ["transfer: 8 of 80 rows are also in dev or test, left out"]


def test_python_docs_does_not_leak():
    tables = {split: list(rows) for split, rows in python_docs.read_splits(0).items()}
    docs = {split: {row.text_pair for row in rows} for split, rows in tables.items()}
    signatures = {split: {row.text for row in rows} for split, rows in tables.items()}
    for left, right in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not docs[left] & docs[right]
        assert not signatures[left] & signatures[right]
    for rows in tables.values():
        assert Counter(row.label for row in rows) == {"match": len(rows) // 2, "mismatch": len(rows) // 2}
        own = {row.text: row.text_pair for row in rows if row.label == "match"}
        assert all(own[row.text] != row.text_pair for row in rows if row.label == "mismatch")
        assert all(4 <= len(row.text_pair.split()) <= 40 for row in rows)
    transfer = list(python_docs.transfer_rows(500, 0))
    assert len({(row.text, row.text_pair) for row in transfer}) == 500
    assert {row.text_pair for row in transfer} <= docs["train"]
    assert sum(map(len, tables.values())) > 6000


def test_encoding_stays_on_disk(tmp_path):
    table = write_table(tmp_path / "t.arrow", (Row("the good film " * 50, None, "good") for _ in range(20_000)))
    tracemalloc.start()
    data = encode([table], tiny.tokenizer(), 160, tiny.TASK.targets, tmp_path / "tokens")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.tokens.nbytes > 12e6
    assert peak < data.tokens.nbytes / 2


def test_hub_data_without_network_names_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"Without network.*files:FOLDER, or use embedded:python-docs"):
        run(DataParams(source="hub:lissom-no-such/data-set"), tmp_path)


def test_hub_data_through_the_datasets_library(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    for split, rows in (("train", ROWS), ("validation", ROWS[:6])):
        pq.write_table(
            pa.table({"text": [t for t, _ in rows], "label": [label for _, label in rows]}), folder / f"{split}.parquet"
        )
    card, output = run(DataParams(source=f"hub:{folder}"), tmp_path)
    assert card.rows["test"] == 6 and card.rows["dev"] == 4  # validation stands in for test, dev is held out
    assert card.labels == ("no", "yes") and card.name == "repo"
    assert next(load_table(output, "test").rows()).text == ROWS[0][0]


@pytest.mark.parametrize(("label", "reason"), [(["yes", "no"], "several labels"), (3.25, "data.task: regression")])
def test_several_labels_and_numbers_are_refused_with_a_reason(label, reason, tmp_path):
    lines = "".join(json.dumps({"text": f"text {n}", "label": label}) + "\n" for n in range(6))
    params = write(tmp_path / "data", train_jsonl=lines, test_jsonl=lines)
    with pytest.raises(DataError, match=rf"line 1: the label is .*{reason}"):
        run(params, tmp_path)
