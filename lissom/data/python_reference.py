"""The embedded data set *python-reference*: the topics of the Python language reference that come with Python.

`help("topics")` lists them; they are part of the standard library (`pydoc_data`), so that nothing is downloaded.
"""

import hashlib
from collections.abc import Iterator

from lissom.data.tables import Row

_SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


def read_splits(seed: int) -> dict[str, Iterator[Row]]:
    """Return the topics, each a text, in splits that are a function of the seed."""
    from pydoc_data.topics import topics

    by_text = {text.strip(): name for name, text in sorted(topics.items())}  # some topics have two names
    names = sorted(by_text.values(), key=lambda name: hashlib.blake2b(f"{seed} {name}".encode()).digest())
    bounds = [round(len(names) * share) for share in (0.0, _SHARES["train"], 1 - _SHARES["test"], 1.0)]
    parts = {split: names[start:end] for split, start, end in zip(_SHARES, bounds, bounds[1:], strict=False)}
    return {split: (Row(topics[name].strip(), None, None) for name in part) for split, part in parts.items()}
