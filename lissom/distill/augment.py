"""Transfer texts by masked-language-model replacement (TinyBERT, Jiao et al. 2020, algorithm 1).

The candidates of a word that is a single token are the model's best whole words at its position, with the original text
as a second segment for context; those of other words are the nearest by word vectors, if there is a file of vectors.
In each copy of a text, every word is replaced with some probability by one of its candidates. The teacher labels the
copies.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lissom.console import track
from lissom.data.tables import Row, Table, write_table
from lissom.distill.augment_config import AugmentationParams
from lissom.distill.word_vectors import WordVectors
from lissom.errors import InputError
from lissom.models.base import load_language_model
from lissom.models.config import BaseParams
from lissom.models.families import family_of
from lissom.models.source import locate

_BATCH_SIZE = 64
_BEFORE = "a"
"""A word that stands before the one that is looked at."""
# fmt: off
_FUNCTION_WORDS = frozenset((
    "a", "about", "after", "again", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because",
    "been", "before", "being", "between", "both", "but", "by", "can", "could", "did", "do", "does", "doing", "down",
    "during", "each", "few", "for", "from", "further", "had", "has", "have", "having", "he", "her", "here", "hers",
    "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "me", "more", "most", "my", "no", "nor",
    "not", "now", "of", "off", "on", "once", "only", "or", "other", "our", "out", "over", "own", "same", "she",
    "should", "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this",
    "those", "through", "to", "too", "under", "until", "up", "very", "was", "we", "were", "what", "when", "where",
    "which", "while", "who", "whom", "why", "will", "with", "would", "you", "your",
))
# fmt: on


def more_texts(params: AugmentationParams, train: Table, folder: Path) -> Table:
    """Write `copies` new texts for every text of `train` (first texts of pairs), duplicates dropped.

    Raises:
        InputError: the source has no masked-language-model head, or its tokenizer no mask token; or the file of word
            vectors is missing or damaged.
    """
    source, revision = locate(params.masked_lm, "distill.augmentation.masked_lm")
    key = "distill.augmentation.masked_lm"
    model = load_language_model(BaseParams(model=params.masked_lm), key)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    if family_of(model).decoder:
        raise InputError(
            f"distill.augmentation.masked_lm {params.masked_lm}: a {model.config.model_type} predicts the next token; "
            "give a masked language model, which reads both sides of a word"
        )
    if tokenizer.mask_token_id is None:
        raise InputError(f"distill.augmentation.masked_lm {params.masked_lm}: its tokenizer has no mask token")
    vectors = None
    if params.word_vectors is not None:
        vectors = WordVectors(Path(params.word_vectors), "distill.augmentation.word_vectors")
    rng = np.random.default_rng(params.seed)

    def rows() -> Iterator[Row]:
        unique = set(train.texts())
        for text, pair in track(train.texts(), "augmentation", len(train)):
            words = text.split()
            choices = candidates(words, model, tokenizer, params.candidates, vectors)
            for _ in range(params.copies):
                new_words = [
                    options[int(rng.integers(len(options)))] if rng.random() < params.replace_probability else word
                    for word, options in zip(words, choices, strict=True)
                ]
                new = (" ".join(new_words), pair)
                if new not in unique:
                    unique.add(new)
                    yield Row(*new, None)

    return write_table(folder / "augmented.arrow", rows())


def candidates(
    words: list[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    vectors: WordVectors | None = None,
) -> list[list[str]]:
    """Return the replacement candidates of every word; a word without any has itself as the only candidate."""
    content = [place for place, word in enumerate(words) if word.isalpha() and word.lower() not in _FUNCTION_WORDS]
    places = [place for place in content if _is_one_token(words[place], tokenizer)]
    result = [[word] for word in words]
    if vectors is not None:
        for place in set(content).difference(places):
            result[place] = vectors.nearest(words[place], count) or result[place]
    for start in range(0, len(places), _BATCH_SIZE):
        chunk = places[start : start + _BATCH_SIZE]
        masked_texts = [" ".join([*words[:place], tokenizer.mask_token, *words[place + 1 :]]) for place in chunk]
        inputs = tokenizer(
            masked_texts, [" ".join(words)] * len(chunk), padding=True, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(**inputs).logits
        for row, place in enumerate(chunk):
            position = (inputs["input_ids"][row] == tokenizer.mask_token_id).nonzero()
            if len(position):
                best = logits[row, int(position[0])].topk(4 * count).indices.tolist()
                options = [word for token in best if (word := whole_word(token, tokenizer)) is not None][:count]
                result[place] = options or result[place]
    return result


def whole_word(token: int, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the word that a token is; None for a token that continues a word or is not made of letters.

    Tokenizers mark the start of a word in different ways (`Ġgood` at byte level, `good` and `##ing` in WordPiece), so
    that the token is decoded behind another word.
    """
    before = tokenizer.tokenize(_BEFORE)
    text = tokenizer.convert_tokens_to_string([*before, *tokenizer.convert_ids_to_tokens([token])]).strip()
    start, space, word = text.partition(" ")
    return word if start == _BEFORE and space and word.isalpha() else None


def _is_one_token(word: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a word within a text is a single token; byte-level tokenizers cut the first one otherwise."""
    return len(tokenizer.tokenize(f"{_BEFORE} {word}")) == len(tokenizer.tokenize(_BEFORE)) + 1
