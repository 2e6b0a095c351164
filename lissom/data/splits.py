"""Duplicate counts, held-out dev splits, and seeded stratified subsets.

The functions work on a 16-byte digest and a label per row, so that the texts stay on disk.
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
            earlier_rows = set(splits[earlier])
            counts[f"{later} in {earlier}"] = sum(row in earlier_rows for row in splits[later])
    return counts


def hold_out(
    rows: Sequence[bytes], labels: Sequence[str | None], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split row indices into train and dev, stratified by label; no text is in both, or twice in dev.

    The text of a label with a single one stays in train, since nothing could be learned of the label without it.
    """
    dev_rows: set[bytes] = set()
    first: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row, index)
    for members in _by_label(list(first.values()), labels):
        order = sorted(members, key=lambda index: _rank(rows[index], seed))
        if len(order) > 1:
            dev_rows.update(rows[index] for index in order[: max(1, round(fraction * len(order)))])
    dev = sorted(first[row] for row in dev_rows)
    return [index for index, row in enumerate(rows) if row not in dev_rows], dev


def subset(rows: Sequence[bytes], labels: Sequence[str | None], count: int, seed: int) -> list[int]:
    """Return a stratified subset of `count` row indices, a function of the seed."""
    orders = [
        sorted(members, key=lambda index: (_rank(rows[index], seed), index))
        for members in _by_label(range(len(rows)), labels)
    ]
    # The k-th of n members of a label has position (k + 1/2) / n; sorted by position, every prefix is stratified.
    positions = sorted(
        ((position + 0.5) / len(members), index) for members in orders for position, index in enumerate(members)
    )
    return sorted(index for _, index in positions[:count])


def deciles(numbers: Sequence[float]) -> list[str]:
    """Return the decile of every number, as strata of a regression data set."""
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
    """Return the words of a text in lower case; texts with equal words count as duplicates.

    A text without a letter or digit, such as an emoji, is itself.
    """
    return re.sub(r"\W+", " ", text.lower()).strip() or text.strip()
