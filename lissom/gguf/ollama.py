"""A folder that `ollama create` takes as it is: GGUF files with their proof, Modelfiles and a README."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lissom.artifacts import write_json, write_text
from lissom.data.batches import collate
from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.gguf.card import CARD_JSON, CARD_MARKDOWN, Agreement, Card, GgufFile
from lissom.gguf.checks import check_templates, check_tokens
from lissom.gguf.config import FileTypeName, GgufParams
from lissom.gguf.file import GgufModel, gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES, Importance
from lissom.gguf.importance import importance_of
from lissom.gguf.modelfile import MODELFILE, Modelfile
from lissom.gguf.proof import compare, torch_windows, windows_of
from lissom.gguf.settings import context_of
from lissom.models.compressed import CompressedModel
from lissom.models.directory import file_sha256
from lissom.models.generation import listed
from lissom.serving.cores import usable_cores
from lissom.tasks.language_modeling import LanguageModeling

README = "README.md"
_F32: FileTypeName = "f32"
_BATCH_SIZE = 8

BOUNDS: dict[FileTypeName, float] = {
    "f16": 0.005, "bf16": 0.02, "q8_0": 0.02, "q6_k": 0.05, "q5_k_m": 0.15, "q5_k_s": 0.15, "q5_1": 0.15, "q5_0": 0.15,
    "q4_k_m": 0.2, "q4_k_s": 0.25, "q4_1": 0.5, "q4_0": 0.5, "q3_k_l": 0.6, "q3_k_m": 0.7, "q3_k_s": 1.0, "q2_k": 2.0,
}  # fmt: skip
"""Largest mean KL divergence by type, in nats: for models of a hundred million parameters, which lose more than those
of billions."""


def write_ollama(
    model: CompressedModel, folder: Path, train: Encoded, test: Encoded, texts: Sequence[str], params: GgufParams
) -> Card:
    """Write and prove the files of a language model.

    Args:
        model: the model.
        folder: an empty folder.
        train: texts from which importances are measured.
        test: texts on which llama.cpp is compared with torch.
        texts: texts whose tokens are compared.
        params: types, bounds and the settings of the Modelfile.

    Raises:
        InputError: llama.cpp cannot hold the model, or differs from torch by more than allowed.
    """
    source, task = gguf_model(model), model.manifest.task
    assert isinstance(task, LanguageModeling)
    name = params.name or re.sub(r"[^a-z0-9._-]+", "-", task.name.lower())
    importance = _importance(source, train, params.calibration_tokens)
    metadata = {"general.name": name, "general.base_model.0.name": model.manifest.base}
    metadata |= {"general.license": params.license} if params.license else {}
    metadata |= {"lissom.edits": "; ".join(edit.describe() for edit in model.manifest.edits)}
    paths: dict[str, Path] = {}
    for kind in dict.fromkeys((_F32, *params.types)):
        file_type = FILE_TYPES[kind]
        paths[kind] = folder / f"{name}-{kind}.gguf"
        write_gguf(source, paths[kind], file_type, None if file_type.is_float else importance, metadata)
    context = context_of(model.network, source.architecture, task.max_length)
    check_tokens(paths[_F32], model.tokenizer, texts)
    conversations = check_templates(paths[_F32], task, context)
    longest = min(context, task.max_length)
    windows = torch_windows(model.network, windows_of(test, params.proof_tokens, longest))
    found = compare(paths, windows, longest, usable_cores())
    _check(found, params)
    files = tuple(
        GgufFile(
            type=kind, file=paths[kind].name, bytes=paths[kind].stat().st_size, sha256=file_sha256(paths[kind]),
            bits_per_weight=8 * paths[kind].stat().st_size / source.parameters, agreement=found[kind],
            bound=None if kind == _F32 else bound_of(kind, params),
        )
        for kind in params.types
    )  # fmt: skip
    if _F32 not in params.types:
        paths[_F32].unlink()
    card = Card(
        name=name, base=model.manifest.base, architecture=source.architecture.name, parameters=source.parameters,
        network_parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        heads=tuple(groups * source.shapes.group for groups in source.shapes.groups), neurons=source.shapes.neurons,
        context=context, f32=found[_F32], f32_tolerance=params.f32_tolerance, files=files, texts_tokenized=len(texts),
        conversations_rendered=conversations, calibration_tokens=params.calibration_tokens,
    )  # fmt: skip
    _write_texts(source, folder, card, params)
    return card


def bound_of(kind: FileTypeName, params: GgufParams) -> float:
    """Return the largest mean KL divergence of a type."""
    return params.max_kl_divergence.get(kind, BOUNDS[kind])


def _importance(source: GgufModel, train: Encoded, tokens: int) -> Importance | None:
    """Return the importances from as many windows as have `tokens` tokens, evenly spaced over the texts."""
    if tokens == 0 or len(train) == 0:
        return None
    count = max(1, min(len(train), round(tokens / max(1.0, float(train.lengths.mean())))))
    members = np.linspace(0, len(train) - 1, count).round().astype(np.int64)
    batches = np.split(members, range(_BATCH_SIZE, count, _BATCH_SIZE))
    return importance_of(source, (collate(train, batch, source.model.pad_id) for batch in batches))


def _check(found: Mapping[str, Agreement], params: GgufParams) -> None:
    """Raise `InputError` for what is worse than allowed."""
    difference = found[_F32].max_logit_difference
    if difference > params.f32_tolerance:
        raise InputError(
            f"export.gguf: with the weights in float32, llama.cpp and torch differ by up to {difference:.2g} in a "
            f"logit over {found[_F32].tokens} tokens; export.gguf.f32_tolerance is {params.f32_tolerance:g}"
        )
    for kind in params.types:
        if kind == _F32:
            continue
        divergence, bound = found[kind].mean_kl_divergence, bound_of(kind, params)
        if not divergence <= bound:
            raise InputError(
                f"export.gguf: {kind} has a mean KL divergence of {divergence:.3g} from torch over "
                f"{found[kind].tokens} tokens; allowed are {bound:g}. Take a type with more bits, train with it in "
                f"mind, or set export.gguf.max_kl_divergence: {{{kind}: ...}}"
            )


def _write_texts(source: GgufModel, folder: Path, card: Card, params: GgufParams) -> None:
    """Write the card, a Modelfile for every type and the README."""
    write_json(folder / CARD_JSON, card.model_dump(mode="json"))
    write_text(folder / CARD_MARKDOWN, card.markdown())
    ends = [source.vocabulary.tokens[token] for token in listed(source.model.network.config.eos_token_id)]
    for number, file in enumerate(card.files):
        modelfile = Modelfile(
            f"./{file.file}",
            (
                ("num_ctx", min(params.context, card.context)),
                ("temperature", params.temperature),
                ("repeat_penalty", params.repeat_penalty),
                *(("stop", end) for end in dict.fromkeys(ends)),
            ),
            system=params.system,
            license=params.license,
        )
        names = [f"{MODELFILE}.{file.type}", *([MODELFILE] if number == 0 else [])]
        for name in names:
            write_text(folder / name, modelfile.text())
    further = [f"ollama create {card.name}:{file.type} -f {MODELFILE}.{file.type}" for file in card.files[1:]]
    lines = [
        f"# {card.name} in Ollama", "", "```", f"ollama create {card.name} -f {MODELFILE}", f"ollama run {card.name}",
        *further, "```", "", f"The proof of the files is in {CARD_MARKDOWN}.",
    ]  # fmt: skip
    write_text(folder / README, "\n".join(lines) + "\n")
