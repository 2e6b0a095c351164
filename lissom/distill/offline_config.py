"""Params of offline distillation into Transformers, in which the fine-tuned teacher is fixed."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from lissom.attention.config import Pattern
from lissom.distill.augment_config import AugmentationParams
from lissom.section import Methods, Section
from lissom.training.config import LogitsLossParams, RecoveryParams, TrainingParams


def _ascending(blocks: tuple[int, ...]) -> tuple[int, ...]:
    if list(blocks) != sorted(set(blocks)) or blocks[0] < 0:
        raise ValueError(f"{list(blocks)} given: blocks must be ascending, distinct and >= 0")
    return blocks


Blocks = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_ascending)]
"""The teacher's blocks (0-based, ascending) that a student starts from."""


class NoDistillation(Section):
    """No distillation: the teacher is the result. Keys of another method wait for it to be switched on again."""

    model_config = ConfigDict(extra="ignore")

    method: Literal["none"]


class LogitsDistillation(Section):
    """A student made of some of the teacher's blocks learns the teacher's logits (Hinton et al. 2015)."""

    method: Literal["logits"]

    blocks: Blocks
    """The teacher's blocks (0-based, ascending) that the student starts from; of an encoder-decoder the encoder's."""

    decoder_blocks: Blocks | None = None
    """The same for the decoder of an encoder-decoder; null takes as many as `blocks`, evenly spaced."""

    start: Literal["teacher", "random"] = "teacher"
    """Initial weights: the teacher's, or random ones as a baseline."""

    attention: Methods[Pattern] = ()
    """Patterns of the student's attention, which learns from the teacher's; one mapping or a list, as `base.attention`.
    """

    max_dev_drop: float | None = Field(default=None, ge=0)
    """If the student's dev score is worse than the teacher's by more than this (0.02: two points of accuracy), train
    again with more blocks: half of the missing ones, evenly spaced, and so on up to all; null accepts any score."""

    training: RecoveryParams = RecoveryParams()


class SignalsParams(Section):
    """Source of a teacher's hidden states and attention scores during the training of a student."""

    source: Literal["auto", "live", "cached"] = "auto"
    """`live` runs the teacher for every batch, `cached` once per example, onto disk; `auto` caches what fits."""

    cache_gigabytes: float = Field(default=4.0, gt=0)
    """Largest cache, in 10^9 bytes; the estimate is shown before anything is computed."""


class LanguageModelParams(Section):
    """Pre-training of the student before the task, as for DistilBERT: soft targets, masked words, cosine."""

    kl_weight: float = Field(default=5.0, ge=0)
    """Weight of T^2 KL(teacher || student) over the vocabulary, at all real tokens."""

    language_weight: float = Field(default=2.0, ge=0)
    """Weight of the cross-entropy at masked tokens (or of the next token, for a causal model)."""

    cosine_weight: float = Field(default=1.0, ge=0)
    """Weight of 1 - cos of the last hidden states."""

    temperature: float = Field(default=2.0, gt=0)
    """T of the soft targets."""

    mask_probability: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens to predict: 80 % masked, 10 % replaced, 10 % kept."""

    training: TrainingParams = TrainingParams(epochs=3, learning_rate=5e-4, freeze_word_table=False)


class DistilBertDistillation(Section):
    """DistilBERT: CE + soft targets + cosine of the last hidden states (Sanh et al. 2019, arXiv:1910.01108)."""

    method: Literal["distilbert"]

    blocks: Blocks | None = None
    """Teacher blocks that the student starts from; by default the released choice, first and last included."""

    architecture: Literal["teacher", "distilbert"] = "teacher"
    """`distilbert` drops token types and pooler of a BERT teacher, as released; `teacher` keeps its family."""

    cosine_weight: float = Field(default=1.0, ge=0)
    """Weight of 1 - cos(student, teacher), averaged over real tokens."""

    pretraining: LanguageModelParams | None = None
    """Pre-train on the data's texts against the base model, which must have a language-model head."""

    signals: SignalsParams = SignalsParams()

    training: RecoveryParams = RecoveryParams()


class PatientDistillation(Section):
    """BERT-PKD: also the hidden state of [CLS], block by block (Sun et al. 2019, arXiv:1908.09355).

    With a causal teacher it is that of the last real token."""

    method: Literal["patient"]

    blocks: Blocks
    """Teacher blocks that the student starts from; the paper takes the first M."""

    strategy: Literal["skip", "last"] = "skip"
    """Which teacher blocks to learn from: every (N / M)-th, or those before the last."""

    beta: float = Field(default=0.1, ge=0)
    """Weight of the patience loss, summed over blocks and channels as in the paper.

    The released code averages instead: its beta of 500 at 6 blocks of 768 is 0.13 here."""

    signals: SignalsParams = SignalsParams()

    training: RecoveryParams = RecoveryParams(loss=LogitsLossParams(mixing="convex", temperature=5.0))


class ShapeParams(Section):
    """A student of another shape than its teacher, with random initial weights."""

    blocks: int = Field(default=4, ge=1)
    """Transformer blocks; must divide the teacher's unless layer_map is given."""

    hidden_size: int = Field(default=312, ge=1)
    """Width of the hidden states."""

    intermediate_size: int = Field(default=1200, ge=1)
    """Neurons of a feed-forward layer."""

    @property
    def describes(self) -> str:
        """Return the shape in a few words."""
        return f"{self.blocks} x {self.hidden_size} x {self.intermediate_size}"


class TinyBertDistillation(Section):
    """TinyBERT: embeddings, hidden states and attention first, logits after (Jiao et al. 2020, arXiv:1909.10351)."""

    method: Literal["tinybert"]

    blocks: Blocks | None = None
    """Teacher blocks to start from; null takes `shape`, with random initial weights."""

    shape: ShapeParams | None = None
    """The student's own shape, by default 4 x 312 x 1200; it has the teacher's number of heads."""

    layer_map: tuple[int, ...] | None = None
    """Teacher block (1-based) for each student block; by default spread evenly."""

    embedding_weight: float = Field(default=1.0, ge=0)
    """Weight of the embeddings' MSE."""

    hidden_weight: float = Field(default=1.0, ge=0)
    """Weight of the hidden states' MSE."""

    attention_weight: float = Field(default=1.0, ge=0)
    """Weight of the MSE of attention scores before the softmax."""

    temperature: float = Field(default=1.0, gt=0)
    """T of the soft targets in the second phase."""

    compat: bool = False
    """Losses of the authors' released code, for comparison: padding is not masked, embeddings and blocks share one
    projection (with bias), and the soft-target loss is also averaged over labels. For bidirectional teachers."""

    augmentation: AugmentationParams | None = None
    """More training texts, in which words are replaced by others; null trains on those that there are."""

    signals: SignalsParams = SignalsParams()

    layers_training: TrainingParams | None = TrainingParams(
        epochs=10, learning_rate=5e-5, schedule="constant", freeze_word_table=False, keep="last"
    )
    """First phase: inner signals alone; null skips it."""

    training: TrainingParams = TrainingParams(epochs=3, learning_rate=3e-5, freeze_word_table=False)
    """Second phase: logits alone."""

    @model_validator(mode="after")
    def _one_student(self) -> "TinyBertDistillation":
        if self.blocks is not None and self.shape is not None:
            raise ValueError("blocks and shape are both given: a student starts from blocks, or has its own shape")
        return self


class MobileBertShape(Section):
    """A thin and deep student with bottlenecks within its blocks; its hidden size and heads are the teacher's."""

    blocks: int | None = Field(default=None, ge=1)
    """Number of blocks, which must be the teacher's (the default), since each learns from its own."""

    bottleneck_size: int = Field(default=128, ge=1)
    """Width within a block."""

    intermediate_size: int = Field(default=512, ge=1)
    """Neurons of each feed-forward layer."""

    ffns: int = Field(default=4, ge=1)
    """Feed-forward layers per block."""

    embedding_size: int = Field(default=128, ge=1)
    """Width of the word table; the embeddings of three adjacent tokens are concatenated and projected."""


class MobileBertDistillation(Section):
    """MobileBERT: feature maps and attention, block by block (Sun et al. 2020, arXiv:2004.02984).

    The student is bidirectional, and its teacher must be so."""

    method: Literal["mobilebert"]

    shape: MobileBertShape = MobileBertShape()

    strategy: Literal["progressive", "joint", "auxiliary"] = "progressive"
    """Transfer one block after the other, all at once before the task, or together with the task."""

    feature_weight: float = Field(default=1.0, ge=0)
    """Weight of the MSE of hidden states."""

    attention_weight: float = Field(default=1.0, ge=0)
    """Weight of the KL of attention distributions."""

    signals: SignalsParams = SignalsParams()

    transfer_training: TrainingParams = TrainingParams(
        epochs=2, learning_rate=5e-4, freeze_word_table=False, keep="last"
    )
    """Knowledge transfer: for `progressive` of each block, otherwise of all."""

    training: RecoveryParams = RecoveryParams(epochs=3, learning_rate=2e-4, freeze_word_table=False)
