"""Answers of the outputs of a graph, by the kind of the task.

Depends on numpy and tokenizers only, as the rest of `lissom.serving`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from lissom.serving import classification, regression, token_classification
from lissom.serving.folder import DamagedFolderError

Answer = dict[str, Any]
"""What one text is answered with, by the task's kind: `label` and `probabilities`, `value`, `spans` and `truncated`,
`continuation`, `translation`."""


class NonFiniteOutputError(ValueError):
    """The model's output holds infinite values or NaN, so that there is no answer."""


def check_finite(outputs: NDArray[np.float32]) -> None:
    """Raise `NonFiniteOutputError` if outputs `[rows, ...]` hold infinite values or NaN."""
    finite = np.isfinite(outputs).all(axis=tuple(range(1, outputs.ndim)))
    if not finite.all():
        raise NonFiniteOutputError(
            f"the model's output for {int((~finite).sum())} of {len(outputs)} rows is not finite: its weights are "
            "damaged or its training diverged; make the model again"
        )


def rows_of_words(
    logits: NDArray[np.float32], texts: Sequence[str], encodings: Sequence[Encoding]
) -> NDArray[np.float32]:
    """Return the logits of the words of all texts, `[words, labels]`, given those of all tokens, `[batch, n, labels]`.

    A word that is cut off has zeros, which stand for the first label, `O`.
    """
    rows = [np.empty((0, logits.shape[-1]), dtype=np.float32)]
    for text, encoding, outputs in zip(texts, encodings, logits, strict=True):
        places = token_classification.places(encoding, token_classification.words_of(text))
        rows.append(np.where((places >= 0)[:, None], outputs[places], 0.0))
    return np.concatenate(rows).astype(np.float32)


def to_answers(outputs: NDArray[np.float32], serving: Mapping[str, Any], texts: Sequence[str]) -> list[Answer]:
    """Convert logits to answers.

    Args:
        outputs: logits `[batch, outputs]`, or those of the words of all texts, `[words, outputs]`.
        serving: the contents of serving.json.
        texts: the texts, or the first ones of pairs.

    Raises:
        NonFiniteOutputError: the logits hold infinite values or NaN.
        DamagedFolderError: the kind of task is not known.
    """
    check_finite(outputs)
    match serving["kind"]:
        case "classification":
            return classification.answers(outputs, serving)
        case "regression":
            return regression.answers(outputs, serving)
        case "token_classification":
            return token_classification.answers(outputs, texts, serving)
        case kind:
            raise DamagedFolderError(f"serving.json: kind {str(kind)[:60]!r} is not known; update lissom")
