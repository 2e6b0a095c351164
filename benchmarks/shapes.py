"""Pruned networks of every family that llama.cpp runs: which of their files load there with torch's logits."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lissom.errors import InputError
from lissom.gguf.architecture import ARCHITECTURES
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, KeepBlocks, KeepHeads, KeepNeurons
from lissom.models.fused import separate
from lissom.models.manifest import Manifest
from lissom.models.new import learn_tokenizer
from lissom.models.sites import head_groups
from lissom.tasks.language_modeling import LanguageModeling

_BLOCKS, _HEADS, _NEURONS, _LENGTH = 12, 4, 96, 20
_SIZES = {
    "hidden_size": 64, "num_hidden_layers": _BLOCKS, "num_attention_heads": _HEADS, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": _NEURONS, "max_position_embeddings": 64, "query_pre_attn_scalar": 24,
}  # fmt: skip
_GPT2 = {"n_embd": 64, "n_layer": _BLOCKS, "n_head": _HEADS, "n_inner": _NEURONS, "n_positions": 64}
_TOLERANCE = 0.005
"""Of the largest logit: GELU is a table of half precision in llama.cpp."""


def try_shapes(folder: Path) -> tuple[int, int]:
    """Return how many pruned networks were tried, and how many loaded with torch's logits."""
    tokenizer = learn_tokenizer(["the quick brown fox jumps over the lazy dog"] * 50, 300, ends=False)
    task = LanguageModeling(name="shapes", pair=False, max_length=_LENGTH)
    tried = loaded = 0
    for family in ARCHITECTURES:
        sizes = _GPT2 if family == "gpt2" else _SIZES
        tokens = {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        for pruning in _prunings(family):
            config = AutoConfig.for_model(family, **sizes, **tokens)
            torch.manual_seed(0)
            network = separate(AutoModelForCausalLM.from_config(config)).eval()
            manifest = Manifest(base=f"new:{family}", base_sha256=None, base_config=config.to_dict(), task=task)
            model = CompressedModel(network, tokenizer, {}, manifest)
            model.edit(pruning.edits(head_groups(network)))
            tried += 1
            right = _answers(model, folder / "shape.gguf")
            loaded += right
            if not right:
                print(
                    f"{family}: {', '.join(edit.describe() for edit in model.manifest.edits)}: not loaded", flush=True
                )
    return tried, loaded


def _prunings(family: str) -> Iterator["_Pruning"]:
    blocks = tuple(range(6)) if family.startswith("gemma") else (0, 2, 3, 7, 9, 11)
    yield _Pruning(blocks, heads=False, neurons=False, uneven=False)
    yield _Pruning(blocks, heads=True, neurons=True, uneven=True)
    for uneven in (False, True):
        yield _Pruning(None, heads=True, neurons=False, uneven=uneven)
        yield _Pruning(None, heads=False, neurons=True, uneven=uneven)


class _Pruning:
    """Edits that keep some blocks, heads and neurons."""

    def __init__(self, blocks: tuple[int, ...] | None, *, heads: bool, neurons: bool, uneven: bool) -> None:
        self._blocks, self._heads, self._neurons, self._uneven = blocks, heads, neurons, uneven

    def edits(self, group: int) -> list[Edit]:
        """Return the edits for a network with `group` query heads per key/value head."""
        count = _BLOCKS if self._blocks is None else len(self._blocks)
        units = _HEADS // group
        edits: list[Edit] = [] if self._blocks is None else [KeepBlocks(kept=self._blocks)]
        if self._heads:
            few = units // 2
            edits.append(KeepHeads(kept=tuple(self._some(block, few, units) for block in range(count))))
        if self._neurons:
            edits.append(KeepNeurons(kept=tuple(self._some(block, _NEURONS // 3, _NEURONS) for block in range(count))))
        return edits

    def _some(self, block: int, few: int, all_of_them: int) -> tuple[int, ...]:
        return tuple(range(all_of_them if self._uneven and block % 3 == 0 else few))


def _answers(model: CompressedModel, path: Path) -> bool:
    ids = np.random.default_rng(0).integers(2, model.network.config.vocab_size, _LENGTH).tolist()
    with torch.no_grad():
        expected = model.network(input_ids=torch.tensor([ids])).logits[0].numpy()
    try:
        write_gguf(gguf_model(model), path, FILE_TYPES["f32"])
        actual = LlamaCpp(path, _LENGTH, threads=1).logits(ids)
    except InputError as error:
        print(error, flush=True)
        return False
    return bool(np.abs(actual - expected).max() <= _TOLERANCE * np.abs(expected).max())
