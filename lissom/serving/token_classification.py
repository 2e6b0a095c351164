"""Words and spans of texts in token classification: where words are, what is read for them, and spans from labels.

Labels are those of the schemes BIO, BIOES and BILOU, or names of types without a prefix; `O` is outside of every span.
Spans are found as conlleval finds them: a span of a type begins where the word before is outside, of another type, or
ends its own span.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.serving.classification import softmax

OUTSIDE = "O"
PREFIXED = re.compile(r"[BIESLU]-.")
"""A label with a prefix."""
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"(?:(?![{_IDEOGRAPH}])\w)"
# A word may hold punctuation (don't, 3.5, jo@example.org), but does not begin or end with it.
_WORD = re.compile(rf"[{_IDEOGRAPH}]|{_LETTER}+(?:[^\w\s]+{_LETTER}+)*|[^\w\s]")


def words_of(text: str) -> NDArray[np.int64]:
    """Return where the words of a raw text are, `[words, 2]`: first character and the one behind the last.

    Punctuation around words is words of its own, and so is every ideograph.
    """
    spans: list[list[int]] = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        if spans and unicodedata.category(text[start]).startswith("M") and spans[-1][1] == start:
            spans[-1][1] = end  # an accent belongs to the letter before it
        else:
            spans.append([start, end])
    return np.asarray(spans, dtype=np.int64).reshape(-1, 2)


def first_tokens(words: NDArray[np.int64], tokens: NDArray[np.int64], real: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the position of the first token of every word, `[words]`; -1 for a word without one, as behind a cut.

    Args:
        words: first and last character of every word, `[words, 2]`.
        tokens: first and last character of every token, `[n, 2]`, in the order of the text.
        real: which tokens are neither special nor padding, `[n]`.
    """
    positions = np.flatnonzero(real & (tokens[:, 1] > tokens[:, 0]))
    result = np.full(len(words), -1, dtype=np.int64)
    index = np.searchsorted(tokens[positions, 1], words[:, 0], side="right")  # the first that ends inside the word
    inside = np.flatnonzero(index < len(positions))
    inside = inside[tokens[positions[index[inside]], 0] < words[inside, 1]]
    result[inside] = positions[index[inside]]
    return result


def places(encoding: Any, words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of every word's first token in an `Encoding` of tokenizers, `[words]`."""
    real = np.asarray(encoding.special_tokens_mask) == 0
    return first_tokens(words, np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2), real)


def spans_of(codes: NDArray[np.int64], labels: Sequence[str], begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the spans of labelled words, `[spans, 3]`: first word, last word, and type, a number into `types_of`.

    Args:
        codes: label of every word, a number into `labels`, `[words]`.
        labels: all labels.
        begins: whether a word is the first of its text, `[words]`.
    """
    prefixes, types = _parts(labels)
    prefix, kind = prefixes[codes], types[codes]
    same_kind, after_end = kind == np.roll(kind, 1), np.isin(np.roll(prefix, 1), ("E", "S"))
    goes_on = (kind >= 0) & ~np.isin(prefix, ("B", "S")) & same_kind & ~after_end & ~begins
    first = np.flatnonzero((kind >= 0) & ~goes_on)
    # A span ends before the next word that does not go on with it.
    stops = np.append(np.flatnonzero(~goes_on), len(codes))
    last = stops[np.searchsorted(stops, first, side="right")] - 1
    return np.stack([first, last, kind[first]], axis=1)


def types_of(labels: Sequence[str]) -> list[str]:
    """Return the types of spans, without prefixes, in alphabetical order."""
    has_prefixes = any(PREFIXED.match(label) for label in labels)
    return sorted({label[2:] if has_prefixes else label for label in labels if label != OUTSIDE})


def answers(logits: NDArray[np.float32], texts: Sequence[str], serving: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `spans` for every text: `start` and `end` (characters), `label`, `text` and `score`.

    The score is the mean probability of the labels of the span's words. `truncated` tells whether the text was longer
    than the model reads, so that its last words were not read.

    Args:
        logits: of the words of all texts, one text after the other, `[words, labels]`.
        texts: the texts.
        serving: the contents of serving.json.
    """
    labels, types = serving["labels"], types_of(serving["labels"])
    results, begin = [], 0
    for text in texts:
        words = words_of(text)
        rows = logits[begin : begin + len(words)]
        begin += len(words)
        codes = rows.argmax(1)
        scores = softmax(rows).max(1) if len(rows) else np.empty(0)
        spans = []
        for first, last, kind in spans_of(codes, labels, np.arange(len(words)) == 0).tolist():
            start, end = int(words[first, 0]), int(words[last, 1])
            score = float(scores[first : last + 1].mean())
            spans.append({"start": start, "end": end, "label": types[kind], "text": text[start:end], "score": score})
        # A word that is not read has zeros, as has one of format characters alone, which no tokenizer reads.
        unread = words[~rows.any(1)]
        results.append({"spans": spans, "truncated": any(text[start:end].isprintable() for start, end in unread)})
    return results


def _parts(labels: Sequence[str]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return prefix (one of B, I, E, S) and type of every label; the type of `O` is -1."""
    types = {name: number for number, name in enumerate(types_of(labels))}
    has_prefixes = any(PREFIXED.match(label) for label in labels)
    names = [label[2:] if has_prefixes else label for label in labels]
    letters = [{"L": "E", "U": "S"}.get(label[0], label[0]) if has_prefixes else "I" for label in labels]
    kinds = [-1 if label == OUTSIDE else types[name] for label, name in zip(labels, names, strict=True)]
    return np.asarray(letters), np.asarray(kinds, dtype=np.int64)
