"""Which layers are friendly to which compression: one layer at a time is changed, on some training examples."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from lissom.data.prepare import load_card, load_table
from lissom.errors import InputError
from lissom.models.codebooks import decode, encode
from lissom.models.directory import load
from lissom.models.edits.quantizers import quantised_products
from lissom.models.families import family_of
from lissom.models.grid import fake_quantize_rows, weight_high
from lissom.models.grouped import GroupGrid
from lissom.models.layers import is_stored
from lissom.models.linear_algebra import low_rank
from lissom.models.sensitivity import Change, Effect, effects
from lissom.tasks.kinds import task_of
from lissom.training.lesson import Lesson
from lissom.training.sampling import calibration_batches

_GROUP, _BLOCK, _CODES, _ITERATIONS = 64, 8, 256, 10


def _factors(weight: Tensor) -> Tensor:
    second, first = low_rank(weight, max(1, weight.numel() // (2 * sum(weight.shape))))
    return second @ first


def _codes(weight: Tensor) -> Tensor:
    block = next(size for size in range(_BLOCK, 0, -1) if weight.shape[1] % size == 0)
    return decode(*encode(weight, block, _CODES, _ITERATIONS, seed=0))


def _zeros(weight: Tensor) -> Tensor:
    threshold = weight.abs().flatten().kthvalue(weight.numel() // 2).values
    return torch.where(weight.abs() > threshold, weight, 0)


CHANGES: dict[str, Change] = {
    "8 bits": lambda weight: fake_quantize_rows(weight, weight_high(8)),
    "4 bits": GroupGrid(4, _GROUP, clip=True).rounded,
    "2 bits": GroupGrid(2, _GROUP, clip=True).rounded,
    "codes": _codes,
    "half the rank": _factors,
    "half zeros": _zeros,
}
"""8 bits by row; 4 and 2 bits in groups of 64 inputs; one of 256 codes for every 8 weights; a product of two factors
with half of the weights; without the smaller half of the weights."""


def measure(model: Path, data: Path, changes: Iterable[str], examples: int, seed: int) -> dict[str, dict[str, Effect]]:
    """Return the effects of changes on the word table and on every product of a model, by layer and change.

    Args:
        model: a model directory.
        data: a prepared data set.
        changes: names in `CHANGES`.
        examples: number of labelled training examples.
        seed: seed of their draw.

    Raises:
        InputError: the model is quantised already, or the data set is missing or another one's.
    """
    loaded = load(model)
    if is_stored(loaded.network):
        raise InputError(f"{model}: its weights are quantised already; take the model of a stage before")
    if not (data / "train.arrow").is_file():
        raise InputError(f"{data}: no prepared data set; run `lissom compress` or `dvc repro` first, or give --data")
    task = loaded.manifest.task
    if not task.same_question(task_of(load_card(data), task.max_length)):
        raise InputError(
            f"{data}: the model was made for {task.describe()}, which this data set does not have; give --data"
        )
    tables = {split: load_table(data, split) for split in ("train", "transfer")}
    network = loaded.network
    table = family_of(network).word_table
    layers = [path for path in quantised_products(network) if hasattr(network.get_submodule(path), "weight")]
    if hasattr(network.get_submodule(table), "weight"):
        layers.insert(0, table)
    found: dict[str, dict[str, Effect]] = {}
    with TemporaryDirectory() as scratch:
        batches = calibration_batches(loaded, Lesson(tables=tables, scratch=Path(scratch)), examples, seed)
    for effect in effects(loaded, batches, layers, {name: CHANGES[name] for name in changes}):
        found.setdefault(effect.layer, {})[effect.change] = effect
    return found
