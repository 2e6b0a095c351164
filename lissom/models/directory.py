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
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from lissom.artifacts import (
    CONFIG,
    MANIFEST,
    TARGET_TOKENIZER,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    atomic_folder,
    write_json,
    write_text,
)
from lissom.errors import ModelFormatError
from lissom.models import bilstm, static  # noqa: F401  (makes their model types known)
from lissom.models.checking import (
    building,
    check_config,
    check_parameters,
    header_shapes,
    read_bounded_json,
    read_tokenizer,
)
from lissom.models.compact_file import decoded, encoded
from lissom.models.compressed import CompressedModel
from lissom.models.families import family_of
from lissom.models.fused import fused_state, separate, separated_state
from lissom.models.manifest import Manifest, read_manifest
from lissom.models.patterned import honour_windows
from lissom.models.tensor_file import write_tensors
from lissom.models.tied import assign, tie, untied_state


def load(path: str | Path) -> CompressedModel:
    """Load a model directory: build the base config's network, apply the edits in order, load the weights strictly.

    Raises:
        ModelFormatError: a file is missing, truncated or changed since it was saved, or tensors are missing or extra.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    of_targets = (TARGET_TOKENIZER,) if manifest.has_target_tokenizer else ()
    for name in (WEIGHTS, TOKENIZER, TOKENIZER_CONFIG, *of_targets):
        if not (folder / name).is_file():
            raise ModelFormatError(f"{folder}: {name} is missing; make or copy the model again")
    digest = file_sha256(folder / WEIGHTS)
    if digest != manifest.weights_sha256:
        raise ModelFormatError(
            f"{folder / WEIGHTS}: sha256 {digest[:12]}..., {MANIFEST} says {str(manifest.weights_sha256)[:12]}...: "
            "the file is truncated or was changed; make or copy the model again"
        )
    tokenizer, tokenizer_config = read_tokenizer(folder / TOKENIZER), read_bounded_json(folder / TOKENIZER_CONFIG)
    if not isinstance(tokenizer_config, dict):
        raise ModelFormatError(f"{folder / TOKENIZER_CONFIG}: an object is expected; make or copy the model again")
    _check_size(manifest, folder / WEIGHTS)
    network = build(manifest)
    _load_weights(network, folder / WEIGHTS)
    return CompressedModel(
        network=network.eval(), tokenizer=tokenizer, tokenizer_config=tokenizer_config, manifest=manifest,
        target_tokenizer=read_tokenizer(folder / TARGET_TOKENIZER) if of_targets else None,
    )  # fmt: skip


def save(model: CompressedModel, path: str | Path) -> None:
    """Write a model directory atomically."""
    with atomic_folder(Path(path)) as folder:
        write_model(model, folder)


def write_model(model: CompressedModel, folder: Path) -> None:
    """Write the files of a model into an existing folder."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in untied_state(model.network).items()}
    tensors = fused_state(state, family_of(model.network))
    if any(edit.is_compact for edit in model.manifest.edits):
        tensors = encoded(tensors)
    write_tensors(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    facts = {
        "weights_sha256": file_sha256(folder / WEIGHTS),
        "has_target_tokenizer": model.target_tokenizer is not None,
    }
    model.manifest = model.manifest.model_copy(update=facts)
    write_json(folder / MANIFEST, model.manifest.model_dump(mode="json"))
    write_json(folder / CONFIG, _visible_config(model))
    for name, tokenizer in ((TOKENIZER, model.tokenizer), (TARGET_TOKENIZER, model.target_tokenizer)):
        if tokenizer is not None:
            tokenizer.no_padding()
            tokenizer.no_truncation()
            write_text(folder / name, tokenizer.to_str())
    write_json(folder / TOKENIZER_CONFIG, model.tokenizer_config)


def build(manifest: Manifest) -> PreTrainedModel:
    """Return the network that a manifest describes, with parameters on the meta device.

    Raises:
        ModelFormatError: the config is of no known family, too large or does not work, or an edit does not fit it.
    """
    check_config(manifest.base_config)
    with building(), no_init_weights():
        config = AutoConfig.for_model(**manifest.base_config)
        network: PreTrainedModel = manifest.task.auto_class.from_config(config)
        tie(network, manifest.base_config)  # which transformers leaves out with the initial weights
    parameters: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                parameters.setdefault(id(parameter), nn.Parameter(parameter.to("meta")))
                module._parameters[name] = parameters[id(parameter)]
    with building():
        separate(network)
    honour_windows(network)
    _apply_edits(manifest, network)
    return network


def _check_size(manifest: Manifest, weights: Path) -> None:
    """Compare config and edits with the header of the weights, before any memory is allocated for a network.

    Raises:
        ModelFormatError: as of `build`; or the tensors of the file are others.
    """
    check_config(manifest.base_config)
    header = {name: torch.empty(shape, device="meta") for name, shape in header_shapes(weights).items()}
    with building(), torch.device("meta"):
        sketch: PreTrainedModel = manifest.task.auto_class.from_config(AutoConfig.for_model(**manifest.base_config))
        tie(sketch, manifest.base_config)
        check_parameters(sum(parameter.numel() for parameter in sketch.parameters()))
        separate(sketch)
    with torch.device("meta"):
        _apply_edits(manifest, sketch)
    target = untied_state(sketch)
    header = separated_state(decoded(header, _shapes(sketch)), family_of(sketch))
    problems = [f"missing: {name}" for name in sorted(target.keys() - header.keys())]
    problems += [f"extra: {name[:100]}" for name in sorted(header.keys() - target.keys())]
    problems += [
        f"shape of {name}: {list(header[name].shape)} in the file, {list(target[name].shape)} after the edits"
        for name in sorted(target.keys() & header.keys())
        if target[name].shape != header[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelFormatError(f"{weights}: the tensors do not fit config and edits: " + "; ".join(problems[:5]) + more)


def _apply_edits(manifest: Manifest, network: PreTrainedModel) -> None:
    for edit in manifest.edits:
        try:
            edit.apply(network)
        except (ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelFormatError(f"{MANIFEST}: edit {edit.kind!r} does not fit: {reason}") from None


def _shapes(network: PreTrainedModel) -> dict[str, torch.Size]:
    """Return the shapes of the tensors in the file of a network on the meta device."""
    state = {name: tensor.to("meta") for name, tensor in untied_state(network).items()}
    return {name: tensor.shape for name, tensor in fused_state(state, family_of(network)).items()}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_weights(network: PreTrainedModel, weights: Path) -> None:
    try:
        state = separated_state(decoded(load_file(weights), _shapes(network)), family_of(network))
    except (SafetensorError, OSError) as error:
        raise ModelFormatError(f"{weights}: cannot be read: {error}; make or copy the model again") from None
    assign(network, state)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.dtype.is_floating_point)
    assert not any(tensor.device == torch.device("meta") for tensor in network.state_dict().values())


def _visible_config(model: CompressedModel) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(model.network.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)  # where the base model lies on this machine
    if not all(edit.is_plain(model.network) for edit in model.manifest.edits):
        config["model_type"] = f"lissom-{config['model_type']}"
        config["lissom"] = "plain transformers cannot express this model; load it with lissom.load"
    return config
