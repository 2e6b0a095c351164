"""A folder of embedding files for llama.cpp and Ollama: the encoder of a model without its head, with its proof."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.artifacts import write_json, write_text
from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.gguf.card import CARD_JSON, CARD_MARKDOWN, Closeness, EmbeddingCard, EmbeddingFile
from lissom.gguf.checks import check_tokens
from lissom.gguf.config import FileTypeName, GgufParams, Pooling
from lissom.gguf.file import gguf_model
from lissom.gguf.folder import F32, file_facts, model_name, write_files, write_modelfiles, write_proof, write_readme
from lissom.gguf.settings import context_of
from lissom.models.compressed import CompressedModel
from lissom.serving.cores import usable_cores
from lissom.serving.llama_server import LlamaServer

BOUNDS: dict[FileTypeName, float] = {
    "f32": 0.999, "f16": 0.999, "bf16": 0.998, "q8_0": 0.99, "q6_k": 0.98, "q5_k_m": 0.95, "q5_k_s": 0.95,
    "q5_1": 0.95, "q5_0": 0.95, "q4_k_m": 0.93, "q4_k_s": 0.93, "q4_1": 0.85, "q4_0": 0.85, "q3_k_l": 0.85,
    "q3_k_m": 0.85, "q3_k_s": 0.8, "q2_k": 0.7,
}  # fmt: skip
"""Smallest cosine of any embedding with torch's by type: for MiniLM's size, where rows of 384 have no K types."""


def write_embeddings(
    model: CompressedModel, folder: Path, train: Encoded, texts: Sequence[str], params: GgufParams
) -> EmbeddingCard:
    """Write and prove the files of a model's encoder.

    Args:
        model: a model of any task whose encoder llama.cpp has.
        folder: an empty folder.
        train: texts from which importances are measured.
        texts: texts whose tokens and embeddings are compared.
        params: types, bounds, pooling and the settings of the Modelfile.

    Raises:
        InputError: llama.cpp cannot hold the model, or differs from torch by more than allowed.
    """
    source, task = gguf_model(model, params.pooling), model.manifest.task
    name = model_name(task.name, params)
    paths = write_files(source, folder, name, train, params)
    context = context_of(model.network, source.architecture, task.max_length)
    check_tokens(paths[F32], model.tokenizer, texts)
    tokens = [encoding.ids[:context] for encoding in model.tokenizer.encode_batch(list(texts))]
    expected = torch_embeddings(model, tokens, params.pooling)
    agreements = {kind: closeness(expected, engine_embeddings(path, tokens, context)) for kind, path in paths.items()}
    bounds = {kind: params.min_cosine.get(kind, BOUNDS[kind]) for kind in paths}
    for kind, agreement in agreements.items():
        if not agreement.cosine_min >= bounds[kind]:
            raise InputError(
                f"export.gguf: an embedding of {kind} has a cosine of {agreement.cosine_min:.4f} with torch's, of "
                f"{len(texts)} texts; allowed are {bounds[kind]:g} or more. Take a type with more bits, or set "
                f"export.gguf.min_cosine: {{{kind}: ...}}"
            )
    for kind, path in paths.items():
        write_proof(path, agreements[kind])
    files = tuple(
        EmbeddingFile(**file_facts(source, paths[kind]), type=kind, agreement=agreements[kind], bound=bounds[kind])
        for kind in params.types
    )
    if F32 not in params.types:
        paths[F32].unlink()
    card = EmbeddingCard(
        name=name, base=model.manifest.base, architecture=source.architecture.name, parameters=source.parameters,
        pooling=params.pooling, width=expected.shape[1], context=context, f32=agreements[F32], files=files,
        texts_tokenized=len(texts), calibration_tokens=params.calibration_tokens,
    )  # fmt: skip
    write_json(folder / CARD_JSON, card.model_dump(mode="json"))
    write_text(folder / CARD_MARKDOWN, card.markdown())
    write_modelfiles(folder, {file.type: file.file for file in files}, (("num_ctx", context),), params)
    request = f"""curl http://localhost:11434/api/embed -d '{{"model": "{name}", "input": "a text"}}'"""
    write_readme(folder, name, request, params.types)
    return card


def torch_embeddings(model: CompressedModel, texts: Sequence[Sequence[int]], pooling: Pooling) -> NDArray[np.float32]:
    """Return the embeddings of texts in tokens, by torch: vectors of length 1, `[texts, d]`."""
    encoder = getattr(model.network.eval(), model.network.base_model_prefix)
    device = next(encoder.parameters()).device
    rows = []
    with torch.inference_mode():
        for ids in texts:
            hidden = encoder(input_ids=torch.tensor([list(ids)], device=device)).last_hidden_state[0].float()
            vector = hidden.mean(0) if pooling == "mean" else hidden[0]
            rows.append((vector / vector.norm()).cpu().numpy())
    return np.stack(rows)


def engine_embeddings(path: Path, texts: Sequence[Sequence[int]], context: int) -> NDArray[np.float32]:
    """Return the embeddings of texts in tokens, by llama.cpp's server, as Ollama would answer: `[texts, d]`.

    Raises:
        InputError: llama.cpp cannot load the file, or answers with another number of vectors.
    """
    try:
        server = LlamaServer(path, context, usable_cores(), embeds=True)
    except ValueError as error:
        raise InputError(str(error)) from None
    try:
        answers = [server.post("/v1/embeddings", {"input": list(text)})["data"] for text in texts]
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    finally:
        server.close()
    return np.asarray([answer[0]["embedding"] for answer in answers], dtype=np.float32)


def closeness(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> Closeness:
    """Return the cosines of embeddings `[texts, d]`, of which the expected ones have length 1."""
    cosines = np.nan_to_num((expected * actual).sum(1) / np.linalg.norm(actual, axis=1), nan=-1.0)
    return Closeness(texts=len(cosines), cosine_min=float(cosines.min()), cosine_mean=float(cosines.mean()))
