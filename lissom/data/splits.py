"""Duplicates, a dev split where there is none, and seeded stratified subsets.

All of it works on one 16-byte digest and one label per row, so that the texts stay on disk.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from lissom.data.tables import Table


def digests(table: Table) -> list[bytes]:
    """Return a digest of the normalised text (case, punctuation and spaces aside) for every row."""
    return [
        hashlib.blake2b("\x00".join(normalised(text or "") for text in texts).encode(), digest_size=16).digest()
        for texts in table.texts()
    ]


def count_duplicates(splits: dict[str, list[bytes]]) -> dict[str, int]:
    """Count repeats within every split and rows of one split that occur in an earlier one."""
    counts = {f"within {name}": len(rows) - len(set(rows)) for name, rows in splits.items()}
    names = list(splits)
    for position, later in enumerate(names):
        for earlier in names[:position]:
            known = set(splits[earlier])
            counts[f"{later} in {earlier}"] = sum(row in known for row in splits[later])
    return counts


def hold_out(
    rows: Sequence[bytes], labels: Sequence[str | None], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split row numbers into train and dev: stratified by label, no text on both sides, no text twice in dev."""
    chosen: set[bytes] = set()
    first: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row, index)
    for members in _by_label(list(first.values()), labels):
        ranked = sorted(members, key=lambda index: _rank(rows[index], seed))
        chosen.update(rows[index] for index in ranked[: max(1, round(fraction * len(ranked)))])
    dev = sorted(first[row] for row in chosen)
    return [index for index, row in enumerate(rows) if row not in chosen], dev


def subset(rows: Sequence[bytes], labels: Sequence[str | None], count: int, seed: int) -> list[int]:
    """Return `count` row numbers with the labels in the proportion of the whole, the same for the same seed."""
    ranked = [
        sorted(members, key=lambda index: (_rank(rows[index], seed), index))
        for members in _by_label(range(len(rows)), labels)
    ]
    # The k-th of n members of a label stands at (k + 1/2) / n: merging by that keeps every prefix stratified.
    merged = sorted(
        ((position + 0.5) / len(members), index) for members in ranked for position, index in enumerate(members)
    )
    return sorted(index for _, index in merged[:count])


def deciles(numbers: Sequence[float]) -> list[str]:
    """Return the name of every number's tenth: what numbers to predict are stratified by."""
    bounds = np.quantile(numbers, np.arange(1, 10) / 10)
    return [str(tenth) for tenth in np.searchsorted(bounds, numbers)]


def label_counts(labels: Sequence[str | None]) -> dict[str, int]:
    """Count the rows of every label, most frequent first."""
    return {str(label): count for label, count in Counter(labels).most_common()}


def _by_label(indices: Sequence[int], labels: Sequence[str | None]) -> Iterator[list[int]]:
    groups: dict[str | None, list[int]] = defaultdict(list)
    for index in indices:
        groups[labels[index]].append(index)
    for label in sorted(groups, key=str):
        yield groups[label]


def _rank(row: bytes, seed: int) -> bytes:
    return hashlib.blake2b(row, digest_size=8, key=str(seed).encode()).digest()


def normalised(text: str) -> str:
    """Return the words of a text in lower case: texts that agree in them count as duplicates."""
    return re.sub(r"\W+", " ", text.lower()).strip()
