"""Tagged words from files: CoNLL, lists in jsonl and parquet, texts with spaces; and what is refused."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lissom.data.cleaning import Cleaner
from lissom.data.config import DataParams
from lissom.data.conll import read_conll
from lissom.data.hub import _is_withheld, _rows
from lissom.data.prepare import load_table, prepare
from lissom.errors import DataError, ParamsError
from lissom.params import check_params
from lissom.pipelines.columns import assume_columns
from lissom.tasks.kinds import task_of

ROWS = [
    (["Ann", "lives", "in", "New", "York"], ["B-person", "O", "O", "B-place", "I-place"]),
    (["I", "met", "Bo", "."], ["O", "O", "B-person", "O"]),
    (["Nothing", "here"], ["O", "O"]),
    (["Rome", "!"], ["B-place", "O"]),
]


def conll(rows, separator="\t"):
    return "\n".join("".join(f"{word}{separator}{tag}\n" for word, tag in zip(*row, strict=True)) for row in rows)


def source(folder, form, rows=ROWS):
    folder.mkdir()
    for split in ("train", "dev", "test"):
        path = folder / f"{split}.{form}"
        if form == "conll":
            path.write_text(conll(rows))
        elif form == "jsonl":
            path.write_text("".join(json.dumps({"text": words, "label": tags}) + "\n" for words, tags in rows))
        elif form == "parquet":
            pq.write_table(pa.table({"text": [words for words, _ in rows], "label": [tags for _, tags in rows]}), path)
        else:
            lines = ["text\tlabel", *(f"{' '.join(words)}\t{' '.join(tags)}" for words, tags in rows)]
            path.write_text("\n".join(lines))
    return folder


def prepared(folder, output, **more):
    output.mkdir()
    return prepare(DataParams(source=f"files:{folder}", task="token_classification", **more), output)


@pytest.mark.parametrize("form", ["conll", "jsonl", "parquet", "tsv"])
def test_every_form_gives_the_same_rows(form, tmp_path):
    card = prepared(source(tmp_path / "data", form), tmp_path / "out")
    assert card.labels == ("O", "B-person", "B-place", "I-place")
    rows = [(row.text, row.label) for row in load_table(tmp_path / "out", "test").rows()]
    assert rows == [(" ".join(words), " ".join(tags)) for words, tags in ROWS]
    assert card.label_counts["train"] == {"O": 8, "B-person": 2, "B-place": 2, "I-place": 1}
    task = task_of(card, 32)
    assert task.kind == "token_classification" and task.describe() == "spans of person, place"


def test_conll_as_it_is_found(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    text = "-DOCSTART- -X- -X- O\n\n# sent_id = 1\nAnn NNP B-NP B-person\nsings VBZ B-VP O\r\n\t\n \nBo\tB-person\n#\tO\n\n\n"
    for split in ("train", "test"):
        (folder / f"{split}.conll").write_text(text + "\n" + conll(ROWS))
    prepared(folder, tmp_path / "out", dev_fraction=0.3)
    rows = [(row.text, row.label) for row in load_table(tmp_path / "out", "test").rows()]
    assert rows[:2] == [("Ann sings", "B-person O"), ("Bo #", "B-person O")]


def test_words_keep_their_tags_when_others_are_left_out(tmp_path):
    odd = [(["New York", "\u200b", " ", "is\tbig"], ["B-place", "O", "O", "O"])]
    card = prepared(source(tmp_path / "data", "jsonl", ROWS + odd), tmp_path / "out")
    last = list(load_table(tmp_path / "out", "test").rows())[-1]
    assert last.text.split(" ") == ["New\u00a0York", "is\u00a0big"] and last.label == "B-place O"
    assert any("2 words without a visible character" in note for note in card.notes)


def test_a_held_out_dev_has_rare_tags_too(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [([f"w{number}", "x"], ["B-rare" if number % 10 == 0 else "O", "O"]) for number in range(200)]
    for split in ("train", "test"):
        (folder / f"{split}.conll").write_text(conll(rows))
    card = prepared(folder, tmp_path / "out")
    assert card.rows["dev"] == 20 and card.label_counts["dev"]["B-rare"] == 2


def test_unlabelled_texts_need_no_words(tmp_path):
    (tmp_path / "more.jsonl").write_text('{"text": "Cy is in Oslo."}\n{"text": ["Di", "left"]}\n')
    prepared(source(tmp_path / "data", "jsonl"), tmp_path / "out", transfer=str(tmp_path / "more.jsonl"))
    rows = list(load_table(tmp_path / "out", "transfer").rows())
    assert [(row.text, row.label) for row in rows] == [("Cy is in Oslo.", None), ("Di left", None)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(["a", "b"], ["O"])], "2 words in column 'text', 1 tags in 'label'"),
        ([(["a", "b"], ["O", ""])], "the tag '' is empty"),
        ([(["a", "b"], ["B-x", "I-x"])], "no word has the tag O"),
        ([(["a", "b", "c"], ["B-x", "y", "O"])], "the tags y have no prefix and others have one"),
        ([(3, ["O"])], "a list of words or tags is needed"),
        ([(["a"], ["O"]), (["b"], ["O"])], "one label only"),
    ],
)
def test_what_cannot_be_read_is_told(rows, message, tmp_path):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        prepared(source(tmp_path / "data", "jsonl", rows), tmp_path / "out")


def test_a_line_without_a_tag_is_named(tmp_path):
    folder = source(tmp_path / "data", "conll")
    (folder / "test.conll").write_text("Ann\tB-person\nsings\n")
    with pytest.raises(DataError, match=r"test.conll, line 2: 'sings' has no tag"):
        prepared(folder, tmp_path / "out")


def test_lists_for_another_task_are_refused(tmp_path):
    folder, output = source(tmp_path / "data", "conll"), tmp_path / "out"
    output.mkdir()
    with pytest.raises(DataError, match="a list; a text is needed"):
        prepare(DataParams(source=f"files:{folder}"), output)


def test_columns_of_lists_are_words_and_tags():
    rows = [{"id": number, "tokens": words, "ner_tags": tags} for number, (words, tags) in enumerate(ROWS)]
    columns = assume_columns(rows, {})
    assert (columns.text, columns.text_pair, columns.label, columns.task) == (
        "tokens", None, "ner_tags", "token_classification",
    )  # fmt: skip


@pytest.mark.parametrize("method", ["lstm", "static", "fastbert", "deep_to_shallow"])
def test_methods_for_whole_texts_are_refused_with_the_reason(method):
    data = {"source": "files:d", "task": "token_classification"}
    with pytest.raises(ParamsError, match="asks for a label of every word"):
        check_params({"base": {"model": "dir:b"}, "data": data, "distill": {"method": method}})


def test_pairs_are_refused():
    with pytest.raises(ValueError, match="is for single texts"):
        DataParams(source="files:d", task="token_classification", text_pair="second")


def test_conll_u_and_empty_columns(tmp_path):
    (tmp_path / "tab.conll").write_text("Ann\tB-person\t\nlives\tO\t \n")
    assert [record for _, record in read_conll(tmp_path / "tab.conll")] == [
        {"text": ["Ann", "lives"], "label": ["B-person", "O"]}
    ]
    universal = "# text = Ann\n1\tAnn\tAnn\tPROPN\tNNP\t_\t0\troot\t_\t_\n"
    (tmp_path / "universal.conll").write_text(universal)
    with pytest.raises(DataError, match="line 2: this is CoNLL-U, whose first column numbers the words"):
        list(read_conll(tmp_path / "universal.conll"))


def test_tags_of_the_hub_that_are_missing(tmp_path):
    """As a number below 0, or altogether; a test set without any is no test set."""
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-person"]))
    features = datasets.Features({"text": datasets.List(datasets.Value("string")), "label": tags})
    words, labels = [["Ann", "lives"], ["in"], ["Rome"]], [[1, 0], [-1], None]
    whole = datasets.Dataset.from_dict({"text": words, "label": labels}, features=features)
    params = DataParams(source="hub:a/b", task="token_classification")
    cleaner = Cleaner(params)
    assert [row.label for row in _rows(whole, params, cleaner)] == ["B-person O"]
    assert cleaner.notes("train") == ["train: 2 rows without a label are left out"]
    assert _is_withheld(whole.select([1, 2]), params) and not _is_withheld(whole, params)
