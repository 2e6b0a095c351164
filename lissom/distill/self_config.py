"""Params of self-distillation, in which a network learns from its deepest exit, its past or its average."""

from typing import Annotated, Literal

from pydantic import Field

from lissom.distill.offline_config import Blocks
from lissom.section import Section
from lissom.training.config import LogitsLossParams, RecoveryParams, TrainingParams


class FastBertDistillation(Section):
    """FastBERT: an exit after every block, distilled from the last; easy inputs leave early (arXiv:2004.02178)."""

    method: Literal["fastbert"]

    blocks: Annotated[Blocks, Field(min_length=2)] | None = None
    """Teacher blocks that the backbone starts from, two or more, as the last exit is no early one; all by default."""

    exit_size: int = Field(default=128, ge=2)
    """Width of the exits' classifiers."""

    direction: Literal["student_teacher", "teacher_student"] = "teacher_student"
    """KL(last || exit), as in the released code, or KL(exit || last), as in the paper, with overconfident exits."""

    backbone_training: RecoveryParams = RecoveryParams(epochs=2, learning_rate=1e-4)
    """First step: backbone and last exit, on labels and the teacher's logits. If the last exit is trained too little,
    the other exits learn its uncertainty, and no input leaves early."""

    training: TrainingParams = TrainingParams(epochs=3, learning_rate=1e-3, keep="last")
    """Second step: the other exits alone, without labels."""


class DeepToShallowDistillation(Section):
    """Be your own teacher: every exit learns labels, the deepest exit and its features (Zhang et al. 2019)."""

    method: Literal["deep_to_shallow"]

    blocks: Blocks | None = None
    """Teacher blocks that the backbone starts from; all by default."""

    exit_size: int = Field(default=128, ge=2)
    """Width of the exits' classifiers."""

    feature_weight: float = Field(default=0.03, ge=0)
    """Weight of the MSE of the exits' features to the deepest exit's."""

    loss: LogitsLossParams = LogitsLossParams(mixing="convex", alpha=0.3, temperature=3.0)
    """Loss of the shallow exits against the deepest, whose own loss is the cross-entropy."""

    keep_exits: bool = True
    """Keep all exits for early exit at inference; otherwise the shallow exits are dropped after the training."""

    training: TrainingParams = TrainingParams(epochs=2, learning_rate=5e-5)


class BornAgainDistillation(Section):
    """Born-again networks: each generation learns from the one before (Furlanello et al. 2018)."""

    method: Literal["born_again"]

    blocks: Blocks | None = None
    """Blocks that every generation is made of; all by default."""

    generations: int = Field(default=1, ge=1)
    """Number of trainings after the teacher's."""

    start: Literal["base", "random"] = "base"
    """Initial weights of each generation: the pre-trained ones, or random ones as in the paper."""

    training: RecoveryParams = RecoveryParams(epochs=2, learning_rate=1e-4)


class EmaDistillation(Section):
    """The student's own moving average is its teacher (mean teacher, Tarvainen & Valpola 2017)."""

    method: Literal["ema"]

    blocks: Blocks | None = None
    """Teacher blocks that the student starts from; all by default."""

    momentum: float = Field(default=0.99, ge=0, le=1)
    """m in teacher = m teacher + (1 - m) student, after every step."""

    loss: LogitsLossParams = LogitsLossParams()

    training: TrainingParams = TrainingParams(epochs=2, learning_rate=5e-5)
