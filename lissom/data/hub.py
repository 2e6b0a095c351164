"""Data from the Hugging Face hub, through the datasets library."""

from collections.abc import Iterator, Mapping
from typing import Any

from lissom.data.cleaning import Cleaner
from lissom.data.config import DataParams
from lissom.data.tables import Row
from lissom.errors import DataError

_SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev", "valid"), "test": ("test",)}


def read_splits(name: str, columns: DataParams, cleaners: Mapping[str, Cleaner]) -> dict[str, Iterator[Row]]:
    """Return the labelled splits of a hub data set, `owner/name[:config][@revision]`.

    A class label of -1 means that there is none. If all labels of test are withheld (as in GLUE), dev is returned as
    test.

    Args:
        name: name of the data set.
        columns: names of the columns.
        cleaners: make the rows of every split.

    Raises:
        DataError: the hub cannot be reached, or the data set or a column does not exist.
    """
    dataset = _load(name)
    if columns.is_written:
        dataset = dataset.flatten()  # a column `translation` with texts of several languages becomes translation.en ...
    splits: dict[str, Any] = {}
    for split, names in _SPLIT_NAMES.items():
        for candidate in names:
            if candidate in dataset:
                splits[split] = dataset[candidate]
    for split in splits.values():
        required = [columns.text, *([columns.text_pair] if columns.text_pair else [])]
        required += [columns.label] if columns.has_labels else []
        missing = [column for column in required if column not in split.column_names]
        if missing:
            raise DataError(
                f"hub:{name}: no column {missing}; found {split.column_names}. Set data.text and data.label"
            )
    if columns.has_labels and "test" in splits and _is_withheld(splits["test"], columns):
        del splits["test"]
    if "test" not in splits and "dev" in splits:
        splits["test"] = splits.pop("dev")
    return {split: _rows(table, columns, cleaners[split]) for split, table in splits.items()}


def train_rows(name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of the train split, with the names of classes; a class of -1 is no label.

    Raises:
        DataError: the hub cannot be reached, or the data set or its train split does not exist.
    """
    dataset = _load(name)
    if "train" not in dataset:
        raise DataError(f"data.source hub:{name}: no split train; it has {', '.join(dataset)}")
    train = dataset["train"]
    if "translation" in train.column_names:  # nested, with a text for every language
        train = train.flatten()
    names = {column: feature.int2str for column, feature in train.features.items() if hasattr(feature, "int2str")}
    for row in train:
        named = {column: to_name(row[column]) for column, to_name in names.items() if row[column] not in (None, -1)}
        yield row | dict.fromkeys(names) | named


def _load(name: str) -> Any:
    import datasets

    path, config, revision = parse(name)
    try:
        return datasets.load_dataset(path, config, revision=revision)
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.source hub:{name}: {type(error).__name__}: {error}\nWithout network, export the data set to "
            "files once and set data.source to files:FOLDER, or use embedded:python-docs"
        ) from None


def _is_withheld(table: Any, columns: DataParams) -> bool:
    """Return whether all labels are those of none: -1, or missing."""
    if columns.is_per_token:
        return all(tags is None or set(tags) == {-1} for tags in table[columns.label])
    return set(table.unique(columns.label)) <= {-1, None}


def parse(name: str) -> tuple[str, str | None, str | None]:
    """Return id, configuration and revision of `owner/name[:config][@revision]`; None for what is not given."""
    path, _, revision = name.partition("@")
    path, _, config = path.partition(":")
    return path, config or None, revision or None


def _rows(table: Any, columns: DataParams, cleaner: Cleaner) -> Iterator[Row]:
    if not columns.has_labels:
        rows = (cleaner.row(record, f"row {number}") for number, record in enumerate(table, start=1))
        yield from (row for row in rows if row is not None)
        return
    feature = table.features[columns.label]
    inner = getattr(feature, "feature", None)  # of a list
    for number, record in enumerate(table, start=1):
        label = record[columns.label]
        if hasattr(feature, "int2str"):
            label = None if label is None or label < 0 else feature.int2str(label)
        elif (name_of := getattr(inner, "int2str", None)) is not None:
            label = None if label is None or min(label, default=0) < 0 else [name_of(tag) for tag in label]
        row = cleaner.row({**record, columns.label: label}, f"row {number}")
        if row is not None:
            yield row
