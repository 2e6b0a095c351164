"""The stage `prepare`: reads a source and writes four Arrow files and a data card."""

import math
import platform
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lissom.artifacts import DATA_CARD, SPLITS, TRANSFER, read_json, write_json
from lissom.data import files, hub, parallel_text, python_docs, python_reference, splits
from lissom.data.cleaning import Cleaner
from lissom.data.config import EMBEDDED, DataParams, TaskKind
from lissom.data.labels import Scale
from lissom.data.tables import Row, Table, write_table
from lissom.errors import DataError
from lissom.section import Section
from lissom.serving.token_classification import OUTSIDE, PREFIXED


class DataCard(Section):
    """Metadata of a prepared data set."""

    name: str
    task: TaskKind
    source: str
    labels: tuple[str, ...]
    """Names of the classes; empty where a number is predicted."""
    scale: Scale | None
    """Mean and deviation of the numbers to predict; None in classification."""
    pair: bool
    rows: dict[str, int]
    label_counts: dict[str, dict[str, int]]
    duplicates: dict[str, int]
    notes: tuple[str, ...] = ()


def prepare(params: DataParams, output: Path) -> DataCard:
    """Read, check and split the source; write `train`, `dev`, `test` and `transfer` and the card to `output`.

    Raises:
        DataError: the data is invalid; the message names the file and the line.
    """
    with tempfile.TemporaryDirectory(dir=output) as folder:
        cleaners = {
            split: Cleaner(params, labelled=params.has_labels and split != TRANSFER) for split in (*SPLITS, TRANSFER)
        }
        sources, notes = _read(params, cleaners)
        raw = {split: write_table(Path(folder) / f"{split}.arrow", rows) for split, rows in sources.items()}
        notes += [note for split, cleaner in cleaners.items() for note in cleaner.notes(split)]
        card = _select(params, raw, output, notes)
    write_json(output / DATA_CARD, card.model_dump(mode="json"))
    return card


def load_card(folder: Path) -> DataCard:
    """Return the card of a prepared data set."""
    return DataCard.model_validate(read_json(folder / DATA_CARD))


def load_table(folder: Path, split: str) -> Table:
    """Return one prepared split, memory-mapped."""
    return Table(folder / f"{split}.arrow")


def _read(params: DataParams, cleaners: Mapping[str, Cleaner]) -> tuple[dict[str, Iterator[Row]], list[str]]:
    notes: list[str] = []
    kind, _, place = params.source.partition(":")
    match kind, place:
        case "embedded", "python-docs":
            sources = python_docs.read_splits(params.seed)
            if params.transfer_examples:
                sources[TRANSFER] = python_docs.transfer_rows(params.transfer_examples, params.seed)
        case "embedded", "python-reference":
            sources = python_reference.read_splits(params.seed)
        case "embedded", _:
            raise DataError(f"data.source: embedded:{place} is not known; allowed: {', '.join(EMBEDDED)}")
        case "hub", _:
            sources = hub.read_splits(place, params, cleaners)
        case _:
            by_split = {split: files.find_split(Path(place), split) for split in SPLITS}
            paths = {split: path for split, path in by_split.items() if path}
            sources = {split: files.read_rows(path, cleaners[split]) for split, path in paths.items()}
            pairs = _pairs(params) if params.is_written else {}
            columns = [params.text, params.label]
            sources = {
                split: parallel_text.read_pair(pair, columns, cleaners[split]) for split, pair in pairs.items()
            } | sources
            read = [*paths.values(), *([Path(params.transfer)] if params.transfer else [])]
            read += [path for pair in pairs.values() for path in pair]
            notes += [
                f"{name} is not read: its name is none of train, dev (validation, valid, val) and test, or its format "
                f"none of {', '.join(files.FORMATS)}"
                for name in files.unread(Path(place), read)
            ]
    if params.transfer:
        sources[TRANSFER] = files.read_rows(Path(params.transfer), cleaners[TRANSFER], by_line=params.has_labels)
    for split in ("train", "test"):
        if split not in sources:
            raise DataError(
                f"data.source {params.source}: no {split} set; "
                f"{'every figure is measured on it' if split == 'test' else 'there is nothing to learn from'}"
                + "".join(f"; {note}" for note in notes)
            )
    return sources, notes


def _pairs(params: DataParams) -> dict[str, tuple[Path, ...]]:
    """Return the files of splits that are two files with a line for every text."""
    folder, columns = Path(params.source.partition(":")[2]), [params.text, params.label]
    pairs = {split: parallel_text.find_pair(folder, files.names_of(split), columns) for split in SPLITS}
    return {split: paths for split, paths in pairs.items() if paths}


def _select(params: DataParams, raw: dict[str, Table], output: Path, notes: list[str]) -> DataCard:
    for split, table in raw.items():
        if not len(table):
            reasons = "".join(f"; {note}" for note in notes if note.startswith(f"{split}:"))
            raise DataError(f"data.source {params.source}: {split} is empty{reasons}")
    rows = {split: splits.digests(raw[split]) for split in SPLITS if split in raw}
    names = {split: raw[split].labels() for split in rows}
    values = {split: _tags(texts) for split, texts in names.items()} if params.is_per_token else names
    if params.has_labels and not params.is_written and len(set(values["train"])) < 2:
        raise DataError(
            f"data.source {params.source}: train has one label only ({values['train'][0]!r}); two or more are needed"
        )
    named = params.has_classes
    labels = _known_labels(params.source, values) if named else ()
    for split in sorted(set(values) - {"train"}) if params.has_labels and not params.is_written else ():
        if len(set(values[split])) < 2:
            raise DataError(
                f"data.source {params.source}: all rows of {split} have the label {values[split][0]!r}: a model that "
                "answers nothing else would be as good as any; add rows of other labels"
            )
    if params.is_per_token:
        labels = _outside_first(params.source, labels)
    strata = _strata(params, names["train"])
    selection = {split: list(range(len(rows[split]))) for split in rows}
    duplicates = splits.count_duplicates(rows)
    if "dev" not in selection:
        selection["train"], selection["dev"] = splits.hold_out(rows["train"], strata, params.dev_fraction, params.seed)
        repeats = len(rows["train"]) - len(selection["train"]) - len(selection["dev"])
        notes.append(
            f"dev: {len(selection['dev'])} rows held out of train, stratified; {repeats} repeats of them dropped"
        )
        held = {names["train"][index] for index in selection["dev"]}
        single = [label for label in labels if label not in held] if named and not params.is_per_token else []
        if single:
            notes.append(f"dev: no row of labels with a single text, which stays in train: {', '.join(single)}")
        if not selection["dev"]:
            raise DataError(
                f"data.source {params.source}: "
                f"{'every label of train has a single text' if named else 'train is one text'}, repeats aside, so that "
                "none can be held out for dev; add texts, or a dev file"
            )
    if params.train_examples and params.train_examples < len(selection["train"]):
        subset = splits.subset(
            [rows["train"][i] for i in selection["train"]], [strata[i] for i in selection["train"]],
            params.train_examples, params.seed,
        )  # fmt: skip
        notes.append(f"train: {len(subset)} of {len(selection['train'])} rows, stratified")
        selection["train"] = [selection["train"][i] for i in subset]
    if params.source.startswith("embedded:"):
        notes.append(f"read from the standard library of Python {platform.python_version()}")
    counts: dict[str, Any] = {}
    for split in SPLITS:
        source = raw["train"] if split == "dev" and "dev" not in raw else raw[split]
        counts[split] = write_table(output / f"{split}.arrow", source.rows(selection[split]))
    transfer: list[int] = []
    if TRANSFER in raw:
        held_out = {
            rows["train" if split == "dev" and "dev" not in raw else split][i]
            for split in ("dev", "test")
            for i in selection[split]
        }
        transfer, transfer_notes = _select_transfer(params, splits.digests(raw[TRANSFER]), held_out)
        notes += transfer_notes
    counts[TRANSFER] = write_table(
        output / f"{TRANSFER}.arrow", raw[TRANSFER].rows(transfer) if TRANSFER in raw else iter(())
    )
    return DataCard(
        name=_name(params.source),
        task=params.task,
        source=params.source,
        labels=labels,
        scale=_scale(counts["train"]) if params.is_numeric else None,
        pair=params.text_pair is not None or params.source == "embedded:python-docs",
        rows={split: len(table) for split, table in counts.items()},
        label_counts={} if not named else {split: _label_counts(params, counts[split]) for split in SPLITS},
        duplicates=duplicates,
        notes=tuple(notes),
    )


def _select_transfer(params: DataParams, rows: list[bytes], held_out: set[bytes]) -> tuple[list[int], list[str]]:
    """Return the indices of the transfer texts to take, and notes.

    Args:
        params: number of texts and seed.
        rows: digest of every transfer text.
        held_out: digests of dev and test, on which nothing may be trained.
    """
    notes, selection = [], [index for index, row in enumerate(rows) if row not in held_out]
    if len(selection) < len(rows):
        notes.append(f"transfer: {len(rows) - len(selection)} of {len(rows)} rows are also in dev or test, left out")
    count = params.transfer_examples
    if count is not None and count < len(selection):
        notes.append(f"transfer: {count} of {len(selection)} rows, drawn at random")
        subset = splits.subset([rows[i] for i in selection], [None] * len(selection), count, params.seed)
        selection = [selection[i] for i in subset]
    elif count is not None and count > len(selection):
        notes.append(f"transfer: {len(selection)} rows, fewer than the {count} asked for")
    return selection, notes


def _known_labels(source: str, names: Mapping[str, Sequence[str | None]]) -> tuple[str, ...]:
    """Return the labels of train; raises `DataError` if another split has a label that train lacks."""
    labels = tuple(sorted(set(map(str, names["train"])), key=_numbers_first))
    for split, values in names.items():
        unknown = sorted({str(name) for name in values} - set(labels))
        if unknown:
            raise DataError(
                f"data.source {source}: {split} has labels that train has not: {', '.join(map(repr, unknown[:5]))} "
                f"(first at row {next(i for i, name in enumerate(values, 1) if name in unknown)}); "
                f"train has {', '.join(map(repr, labels))}"
            )
    return labels


def _tags(texts: Sequence[str | None]) -> list[str | None]:
    """Return the tags of all words, given those of every text separated by spaces."""
    return [tag for text in texts for tag in str(text).split(" ")]


def _outside_first(source: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags with `O` first; raises `DataError` if it is missing, or some tags have a prefix and some none."""
    if OUTSIDE not in labels:
        raise DataError(
            f"data.source {source}: no word has the tag {OUTSIDE}, which stands for words outside of every span; "
            f"found {', '.join(labels[:8])}"
        )
    inside = [label for label in labels if label != OUTSIDE]
    bare = [label for label in inside if not PREFIXED.match(label)]
    if 0 < len(bare) < len(inside):
        raise DataError(
            f"data.source {source}: the tags {', '.join(bare[:5])} have no prefix and others have one; give all of "
            "them a prefix (B-person, I-person) or none"
        )
    return OUTSIDE, *inside


def _strata(params: DataParams, names: Sequence[str | None]) -> Sequence[str | None]:
    """Return the stratum of every row: its label, the decile of its number, or its rarest tag."""
    if params.is_numeric:
        return splits.deciles(list(map(float, map(str, names))))
    if params.is_written:
        return [None] * len(names)
    if not params.is_per_token:
        return names
    counts = Counter(_tags(names))
    return [min(str(text).split(" "), key=lambda tag: (counts[tag], tag)) for text in names]


def _label_counts(params: DataParams, table: Table) -> dict[str, int]:
    """Count the rows of every label, or the words of every tag."""
    labels = table.labels()
    return splits.label_counts(_tags(labels) if params.is_per_token else labels)


def _scale(train: Table) -> Scale:
    numbers = np.asarray(train.labels(), dtype=np.float64)
    return Scale(mean=float(numbers.mean()), deviation=float(numbers.std()))


def _name(source: str) -> str:
    """Return the short name of a source: the last part of its path, without hub configuration or revision."""
    place = source.partition(":")[2].rstrip("/").partition("@")[0]
    return place.rpartition("/")[2].replace(":", "-")


def _numbers_first(label: str) -> tuple[int, float, str]:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    # "nan" and "inf" are names: NaN has no place in an order.
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)
