"""Checks of what later stages would stumble over, made before the first stage works.

Only params and small files are read: no torch, no transformers, no network. What the first two stages check at their
start (the data, the tracking store, the electricity mix, the weights) is left to them: nothing costly comes before.
"""

import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lissom.artifacts import CONFIG, MANIFEST
from lissom.errors import InputError, advice_for
from lissom.factorize.config import WordTableFactorization
from lissom.models.config import NewModelParams
from lissom.models.source import GGUF, is_gguf, locate
from lissom.params import Params
from lissom.storage import followed

_COPIES = 9
"""Two checkpoints (old and new) of weights, best weights and the two moments of Adam, and the output."""
_BLOCKS = ("num_hidden_layers", "encoder_layers", "num_layers", "n_layers", "n_layer")
_DECODER_BLOCKS = ("decoder_layers", "num_decoder_layers")
_WRITTEN = (Path("artifacts"), Path("checkpoints"))
_PACKAGES = ("mlflow", "pandas", "codecarbon", "sklearn", "scipy", "matplotlib", "jinja2")


def preflight(params: Params, *, elsewhere: bool = False) -> None:
    """Check that no later stage must fail.

    Args:
        params: the params of all stages.
        elsewhere: the stages run on other machines: their packages are those of the images, and a base model that is
            not here may be there.

    Raises:
        InputError: something is missing or does not fit; the message lists all of it.
    """
    folder = None  # new, on the hub and not downloaded yet, or on the other machines
    try:
        if not params.base.is_new:
            source, revision = locate(params.base.model)
            folder = source if isinstance(source, Path) else _downloaded(source, revision)
    except InputError:
        if not elsewhere:
            raise
    missing = [] if elsewhere else [*_missing_packages(params)]
    of_file = {} if folder is None or not is_gguf(folder) or missing else _config_of_file(params.base.model, folder)
    problems = [*missing, *([] if elsewhere else _lacking_space(folder, of_file))]
    if params.base.is_new:
        problems += _misfits(params, _config_of_shape(params.base.shape or NewModelParams()))
    elif of_file:
        problems += _misfits(params, of_file)
    # A folder of lissom's has edits of its own, which its config does not show.
    elif folder and folder.is_dir() and not (folder / MANIFEST).is_file():
        problems += _misfits(params, _config_of(params.base.model, folder))
    if problems:
        count = f"{len(problems)} problem{'s'[: len(problems) != 1]}"
        raise InputError("\n".join([f"{count} that a later stage would meet; nothing is computed yet", *problems]))


def _downloaded(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model of the hub in the local cache; None if it was never downloaded."""
    from huggingface_hub import try_to_load_from_cache  # loaded for models of the hub alone

    config = try_to_load_from_cache(name, CONFIG, revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _missing_packages(params: Params) -> Iterator[str]:
    needed = [*_PACKAGES, *(["textblob"] if params.distill.method == "lstm" else [])]
    needed += ["sacrebleu"] if params.data.is_written else []
    needed += ["gguf", "accelerate"] if params.base.model.endswith(GGUF) else []
    needed += ["gguf", "cyllama", "xllamacpp"] if "gguf" in params.export.formats else []
    for name in dict.fromkeys(needed):
        if importlib.util.find_spec(name) is None:
            yield f"  {advice_for(ModuleNotFoundError(name=name))}"


def _lacking_space(model: Path | None, of_file: Mapping[str, Any]) -> Iterator[str]:
    """Compare the free space where stages write with an estimate from a base model's weights; 0 without the model."""
    weights = of_file.get("bytes", 0) + (
        sum(file.stat().st_size for file in model.glob("*.safetensors")) if model else 0
    )
    needed = _COPIES * weights
    for place in _WRITTEN:
        existing = followed(place).absolute()
        while not existing.exists():
            existing = existing.parent
        free = shutil.disk_usage(existing).free
        if free < needed:
            yield (
                f"  {place}: {free / 1e6:,.0f} MB are free, about {needed / 1e6:,.0f} MB are needed, "
                f"{(needed - free) / 1e6:,.0f} MB are missing; free some space, or make {place} a link to another disk"
            )


def _config_of(model: str, folder: Path) -> Mapping[str, Any]:
    """Return the base model's config."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"base.model {model}: {CONFIG} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"base.model {model}: {CONFIG} holds no mapping")
    return config


def _config_of_file(model: str, path: Path) -> Mapping[str, Any]:
    """Return the sizes of the model in a GGUF file by their names in a config, and `bytes` of its weights as floats."""
    import gguf  # one of the packages that were looked for

    try:
        reader = gguf.GGUFReader(path)
        values = {
            name.rpartition(".")[2]: field.contents()
            for name, field in reader.fields.items()
            if name.endswith((".block_count", ".context_length", ".embedding_length"))
        }
        rows = next((int(tensor.shape[-1]) for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"base.model {model}: {path.name} cannot be read: {error}; copy the file again") from None
    return {
        "num_hidden_layers": values.get("block_count"), "max_position_embeddings": values.get("context_length"),
        "hidden_size": values.get("embedding_length"), "vocab_size": rows,
        "bytes": 4 * sum(int(tensor.n_elements) for tensor in reader.tensors),
    }  # fmt: skip


def _config_of_shape(shape: NewModelParams) -> Mapping[str, Any]:
    return {
        "num_hidden_layers": shape.blocks, "decoder_layers": shape.blocks, "hidden_size": shape.width,
        "vocab_size": shape.vocabulary,
    }  # fmt: skip


def _misfits(params: Params, config: Mapping[str, Any]) -> Iterator[str]:
    blocks = next((config[name] for name in _BLOCKS if config.get(name) is not None), None)
    decoder_blocks = next((config[name] for name in _DECODER_BLOCKS if config.get(name) is not None), blocks)
    for key, count in (("blocks", blocks), ("decoder_blocks", decoder_blocks)):
        kept = getattr(params.distill, key, None)
        if isinstance(count, int) and isinstance(kept, tuple):
            if max(kept) >= count:
                yield f"  distill.{key}: {max(kept)} does not exist; the base model has blocks 0 to {count - 1}"
            count = len(kept)
        for pruning in params.prune:
            left = getattr(pruning, key, None)
            if isinstance(count, int) and isinstance(left, int):
                if left > count:
                    yield f"  prune.{key}: {left} blocks cannot be kept; there are {count} by then"
                count = left
    rows, width = config.get("vocab_size"), config.get("hidden_size", config.get("dim", config.get("n_embd")))
    for method in params.factorize:
        # Fewer rows are known only after trimming; the full table is the most favourable case.
        if not isinstance(method, WordTableFactorization) or method.rank is None:
            continue
        if isinstance(rows, int) and isinstance(width, int):
            largest = (rows * width - 1) // (rows + width)
            if method.rank > largest:
                yield f"  factorize.rank: {method.rank} saves nothing on a {rows} x {width} table; largest: {largest}"
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(positions, int):
        # These families count positions from behind the padding token.
        counts_from_padding = config.get("model_type") in ("roberta", "xlm-roberta", "camembert")
        positions -= (config.get("pad_token_id", 1) + 1) if counts_from_padding else 0
        if params.base.max_length > positions and params.base.longer_positions is None:
            yield (
                f"  base.max_length: {params.base.max_length} is more than the base model's {positions} positions; "
                "base.longer_positions adds some"
            )
