"""Params of offline distillation into students without Transformer blocks."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.distill.augment_config import WordAugmentationParams
from lissom.section import Section
from lissom.training.config import RecoveryParams, TrainingParams


class LstmDistillation(Section):
    """A BiLSTM learns the teacher's logits by squared error (Tang et al. 2019, arXiv:1903.12136)."""

    method: Literal["lstm"]

    tokenizer: Literal["words", "teacher"] = "words"
    """Whole words of the training texts, as in the paper, or the teacher's own pieces."""

    min_count: int = Field(default=2, ge=1)
    """Words with fewer occurrences are unknown (`tokenizer: words`)."""

    embedding_size: int = Field(default=300, ge=1)
    """Width of each of the two channels, one fixed and one trained; both start from the teacher's word table."""

    hidden_size: int = Field(default=150, ge=1)
    """Width of each direction."""

    classifier_size: int = Field(default=200, ge=1)
    """Width of the layer before the logits."""

    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout of word vectors and of the layer before the logits."""

    alpha: float = Field(default=0.0, ge=0, le=1)
    """Weight of the labels' cross-entropy; 1 - alpha is that of the squared error."""

    augmentation: WordAugmentationParams | None = WordAugmentationParams()

    training: TrainingParams = TrainingParams(
        epochs=8, learning_rate=2e-3, batch_size=64, weight_decay=0.0, freeze_word_table=False, precision="float32"
    )

    @model_validator(mode="after")
    def _fixed_means_fixed(self) -> "LstmDistillation":
        if self.training.weight_decay:
            raise ValueError(
                f"training.weight_decay is {self.training.weight_decay:g}: it would shrink the channel of fixed word "
                "vectors; it must be 0"
            )
        return self


class StaticDistillation(Section):
    """The mean of token vectors, with a small head, learns the teacher's logits: a student without blocks."""

    method: Literal["static"]

    embedding_size: int = Field(default=256, ge=1)
    """Width of the token vectors, which start from the leading directions of the teacher's word table."""

    classifier_size: int = Field(default=256, ge=1)
    """Width of the layer before the logits."""

    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout of the features and of the layer before the logits."""

    token_weights: Literal["rarity", "equal"] = "rarity"
    """Initial weights of tokens in the mean: smaller for frequent ones (Arora et al. 2017), or all equal. They are part
    of the vectors, and trained with them."""

    training: RecoveryParams = RecoveryParams(
        epochs=8, learning_rate=5e-3, batch_size=64, freeze_word_table=False, precision="float32"
    )
