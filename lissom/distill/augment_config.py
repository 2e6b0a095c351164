"""Params of text augmentation; the teacher labels the new texts."""

from pydantic import Field, model_validator

from lissom.models.config import BaseModelSource
from lissom.section import Section


class AugmentationParams(Section):
    """More transfer texts by masked-LM replacement (TinyBERT, algorithm 1); the teacher labels them."""

    masked_lm: BaseModelSource
    """Source of a masked language model: `package:`, `hub:` or `dir:`."""

    word_vectors: str | None = None
    """File of word vectors (GloVe's text format) for words of several tokens; null never replaces those words."""

    copies: int = Field(default=10, ge=1)
    """New texts per training text; duplicates are dropped."""

    replace_probability: float = Field(default=0.4, gt=0, le=1)
    """Probability that a word is replaced by one of its candidates."""

    candidates: int = Field(default=15, ge=1)
    """Candidates per word: the language model's best words at its position, or the nearest by word vectors."""

    seed: int = 0
    """Seed of the draws."""


class WordAugmentationParams(Section):
    """More transfer texts by masking, replacing and cutting words (Tang et al. 2019, §3); the teacher labels them."""

    copies: int = Field(default=4, ge=1)
    """Passes over the training texts (the paper: 20); duplicates are dropped."""

    mask_probability: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a word becomes the mask token."""

    replace_probability: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a word is replaced by one of the same part of speech, drawn by frequency in training."""

    ngram_probability: float = Field(default=0.25, ge=0, le=1)
    """Probability that a text is cut to an n-gram of 1 to 5 words."""

    seed: int = 0
    """Seed of the changes."""

    @model_validator(mode="after")
    def _exclusive(self) -> "WordAugmentationParams":
        if self.mask_probability + self.replace_probability > 1:
            raise ValueError("mask_probability and replace_probability exclude each other: their sum is at most 1")
        return self
