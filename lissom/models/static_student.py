"""A static classifier made from a model: its tokenizer, and token vectors from its word table.

A thin table of leading directions, rows weighted by rarity: what is published as model2vec and WordLlama keeps both in
the table itself, so that nothing is left to compute for a text but a mean.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import processors
from torch import Tensor

from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.families import family_of
from lissom.models.static import StaticConfig
from lissom.models.students import reshaped

_SMOOTHING = 1e-3


def static_student(
    source: CompressedModel, *, embedding: int, classifier: int, dropout: float, seed: int
) -> CompressedModel:
    """Return a static classifier with the task of `source` and its leading directions; other weights are random.

    Its tokenizer is that of `source` without special tokens, which would be the same in every mean.

    Args:
        source: the model; not changed.
        embedding: width of the token vectors.
        classifier: width of the layer before the logits.
        dropout: dropout of the features and of that layer.
        seed: seed of the random weights.

    Raises:
        InputError: the task asks for a label of every word.
    """
    if source.manifest.task.is_per_token:
        raise InputError("a static classifier answers a whole text by a mean of vectors, which has no label for a word")
    table = source.network.get_submodule(family_of(source.network).word_table)
    device = next(table.parameters()).device
    with torch.no_grad():
        vectors = table(torch.arange(source.network.config.vocab_size, device=device)).float().cpu()
    config = StaticConfig(
        vocab_size=len(vectors), embedding_size=embedding, classifier_size=classifier, dropout=dropout,
        pair=source.manifest.task.pair,
    )  # fmt: skip
    student = reshaped(source, config, seed)
    # The families' own templates give the second text of a pair no segment of its own, except BERT's.
    student.tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    with torch.no_grad():
        student.network.embeddings.word_embeddings.weight.copy_(leading_directions(vectors, embedding))
    return student


def leading_directions(vectors: Tensor, size: int) -> Tensor:
    """Return vectors `[rows, d]` in the `size` leading principal directions, of mean square 1, `[rows, size]`.

    Columns beyond d are 0. The vectors are centred, since what all tokens share says nothing about a text; and scaled,
    since a step of AdamW is as long for small weights as for large ones.
    """
    centred = (vectors - vectors.mean(0)).double()
    if size < centred.shape[1]:
        _, directions = torch.linalg.eigh(centred.T @ centred)
        centred = centred @ directions.flip(1)[:, :size]
    scaled = centred / centred.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).eps)
    return torch.nn.functional.pad(scaled.float(), (0, size - scaled.shape[1]))


def weigh_by_rarity(student: CompressedModel, counts: NDArray[np.int64]) -> None:
    """Multiply every row of the table by a / (a + p), where p is the token's share of all tokens and a is 0.001.

    These are the weights of smooth inverse frequency (Arora et al. 2017, openreview SyK00v5xx, eq. 3). As the lengths
    of the rows they are initial values: a training of the table changes them.

    Args:
        student: a static classifier; changed in place.
        counts: occurrences of every token, `[vocabulary]`.
    """
    shares = torch.from_numpy(counts / max(1, counts.sum())).float()
    with torch.no_grad():
        student.network.embeddings.word_embeddings.weight.mul_((_SMOOTHING / (_SMOOTHING + shares))[:, None])
