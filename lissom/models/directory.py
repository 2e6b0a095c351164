"""Reading and writing model directories.

The layout is Hugging Face's (config.json, model.safetensors, tokenizer.json) plus lissom.json. A model that a plain
transformers class can express also loads there; otherwise config.json has a model type that transformers rejects,
so that it never initialises missing weights at random.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from lissom.artifacts import (
    CONFIG,
    MANIFEST,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    atomic_folder,
    read_json,
    write_json,
)
from lissom.errors import ModelFormatError
from lissom.models import bilstm, static  # noqa: F401  (makes their model types known)
from lissom.models.compressed import CompressedModel
from lissom.models.families import family_of
from lissom.models.fused import fused_state, separate, separated_state
from lissom.models.manifest import Manifest, read_manifest
from lissom.models.tensor_file import write_tensors
from lissom.models.tied import assign, untied_state


def load(path: str | Path) -> CompressedModel:
    """Load a model directory: build the base config's network, apply the edits in order, load the weights strictly.

    Raises:
        ModelFormatError: a file is missing, truncated or changed since it was saved, or tensors are missing or extra.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for name in (WEIGHTS, TOKENIZER, TOKENIZER_CONFIG):
        if not (folder / name).is_file():
            raise ModelFormatError(f"{folder}: {name} is missing; make or copy the model again")
    digest = file_sha256(folder / WEIGHTS)
    if digest != manifest.weights_sha256:
        raise ModelFormatError(
            f"{folder / WEIGHTS}: sha256 {digest[:12]}..., {MANIFEST} says {str(manifest.weights_sha256)[:12]}...: "
            "the file is truncated or was changed; make or copy the model again"
        )
    network = build(manifest)
    _load_weights(network, folder / WEIGHTS)
    return CompressedModel(
        network=network.eval(),
        tokenizer=Tokenizer.from_file(str(folder / TOKENIZER)),
        tokenizer_config=read_json(folder / TOKENIZER_CONFIG),
        manifest=manifest,
    )


def save(model: CompressedModel, path: str | Path) -> None:
    """Write a model directory atomically."""
    with atomic_folder(Path(path)) as folder:
        write_model(model, folder)


def write_model(model: CompressedModel, folder: Path) -> None:
    """Write the files of a model into an existing folder."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in untied_state(model.network).items()}
    write_tensors(fused_state(state, family_of(model.network)), folder / WEIGHTS, metadata={"format": "pt"})
    model.manifest = model.manifest.model_copy(update={"weights_sha256": file_sha256(folder / WEIGHTS)})
    write_json(folder / MANIFEST, model.manifest.model_dump(mode="json"))
    write_json(folder / CONFIG, _visible_config(model))
    model.tokenizer.no_padding()
    model.tokenizer.no_truncation()
    model.tokenizer.save(str(folder / TOKENIZER))
    write_json(folder / TOKENIZER_CONFIG, model.tokenizer_config)


def build(manifest: Manifest) -> PreTrainedModel:
    """Return the network that a manifest describes, with parameters on the meta device.

    Raises:
        ModelFormatError: an edit does not fit the config.
    """
    config = AutoConfig.for_model(**manifest.base_config)
    with no_init_weights():
        network: PreTrainedModel = manifest.task.auto_class.from_config(config)
    parameters: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                parameters.setdefault(id(parameter), nn.Parameter(parameter.to("meta")))
                module._parameters[name] = parameters[id(parameter)]
    separate(network)
    for edit in manifest.edits:
        try:
            edit.apply(network)
        except ValueError as error:
            raise ModelFormatError(f"{MANIFEST}: edit {edit.kind!r} does not fit: {error}") from None
    return network


def file_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_weights(network: PreTrainedModel, weights: Path) -> None:
    try:
        state = separated_state(load_file(weights), family_of(network))
    except (SafetensorError, OSError) as error:
        raise ModelFormatError(f"{weights}: cannot be read: {error}; make or copy the model again") from None
    target = untied_state(network)
    problems = [f"missing: {name}" for name in sorted(target.keys() - state.keys())]
    problems += [f"extra: {name}" for name in sorted(state.keys() - target.keys())]
    problems += [
        f"shape of {name}: {list(state[name].shape)} in the file, {list(target[name].shape)} after the edits"
        for name in sorted(target.keys() & state.keys())
        if target[name].shape != state[name].shape
    ]
    if problems:
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelFormatError(
            f"{weights}: the tensors do not fit config and edits:\n  " + "\n  ".join(problems[:5]) + more
        )
    assign(network, state)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.dtype.is_floating_point)
    assert not any(tensor.device == torch.device("meta") for tensor in network.state_dict().values())


def _visible_config(model: CompressedModel) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(model.network.config.to_json_string(use_diff=False))
    if not all(edit.is_plain(model.network) for edit in model.manifest.edits):
        config["model_type"] = f"lissom-{config['model_type']}"
        config["lissom"] = "plain transformers cannot express this model; load it with lissom.load"
    return config
