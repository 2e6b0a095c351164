"""The public data sets of the benchmarks, which lie beside a developer's checkout; a user's lacks them.

LISSOM_DATA names another folder.
"""

import gzip
import os
import sys
from pathlib import Path

import torch

from benchmarks.provenance import ROOT

SETS = {"sst2": "sst2_sentences", "trec6": "trec6", "ag_news": "ag_news_subset"}
AG_NEWS_TEST = 2000  # of 7,600 rows, and 2,800 of 8,988 train rows: what a quarter of an hour on two cores allows

_FEWEST_WORDS = 5
_REHEARSED = {"train": 320, "dev": 64, "test": 64, "phrases": 32}


def require_data(name: str) -> Path:
    """Return the folder of a data set, or end with a message where there is none."""
    folder = Path(os.environ.get("LISSOM_DATA", ROOT.parent / "shared" / "data")) / name
    if not folder.is_dir():
        sys.exit(
            f"{folder} is missing: this benchmark needs the public data sets that developers keep beside the checkout; "
            "LISSOM_DATA may name the folder that holds them"
        )
    return folder


def write_data(name: str, folder: Path, *, rehearse: bool = False) -> None:
    """Write train, dev and test of a set as TSV, and for SST-2 the phrases to learn from without labels.

    Args:
        name: one of `SETS`.
        folder: where to.
        rehearse: write the first rows only.
    """
    source = require_data(SETS[name])
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        # The sentences' own dev and test have damaged accents; the phrases' folder has the same rows intact.
        origin = require_data("sst2") if name == "sst2" and split != "train" else source
        actual = next(path for path in origin.glob(f"{split}.tsv*"))
        data = gzip.decompress(actual.read_bytes()) if actual.suffix == ".gz" else actual.read_bytes()
        if name == "ag_news" and split == "test":
            data = b"".join(data.splitlines(keepends=True)[: 1 + AG_NEWS_TEST])
        if rehearse:
            data = b"".join(data.splitlines(keepends=True)[: 1 + _REHEARSED[split]])
        (folder / f"{split}.tsv").write_bytes(data)
    if name == "sst2":
        lines = (require_data("sst2") / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
        held_out = {
            _text(line) for split in ("dev", "test") for line in (folder / f"{split}.tsv").read_text().splitlines()
        }
        texts = {text for text in map(_text, lines) if len(text.split()) >= _FEWEST_WORDS} - held_out
        shuffled = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
        ordered = sorted(texts)
        if rehearse:
            shuffled = shuffled[: _REHEARSED["phrases"]]
        (folder / "phrases.tsv").write_text("text\n" + "".join(f"{ordered[index]}\n" for index in shuffled))


def _text(line: str) -> str:
    return line.partition("\t")[2].strip()
