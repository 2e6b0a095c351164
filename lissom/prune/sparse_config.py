"""Params of pruning single weights."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.section import Section
from lissom.training.config import RecoveryParams

Criterion = Literal["magnitude", "gradient", "taylor", "snip", "magnitude_and_gradient", "random"]


class SparseTrainingParams(RecoveryParams):
    """Training of a model whose weights become zero on the way: the last weights are the sparse ones."""

    keep: Literal["best", "last"] = "last"
    """Which weights the training returns; with a schedule the last ones, since earlier ones are less sparse."""

    def refuse_early_weights(self, why: str) -> None:
        """Raise `ValueError` if the training may return weights of before its end."""
        if self.keep != "last" or self.patience is not None:
            raise ValueError(f"{why}: earlier weights are less sparse; set training.keep: last and patience: null")
        if self.lora is not None:
            raise ValueError(f"{why}: adapters would fill what is removed; set training.lora: null")


class UnstructuredPruning(Section):
    """Set single weights of attentions and feed-forward networks to zero: smaller on disk, not faster."""

    method: Literal["unstructured"]

    criterion: Criterion = "magnitude"
    """What tells how much a weight matters; `random` is a control."""

    sparsity: float = Field(default=0.5, gt=0, lt=1)
    """Share of these weights to remove."""

    scope: Literal["global", "layer"] = "global"
    """Whether the share is of all layers together, or the same in every one."""

    schedule: Literal["one_shot", "linear", "cubic", "iterative"] = "one_shot"
    """Remove all at once before the training, or in rounds during it; `iterative`: in rounds, each of the same share of
    what is left and each followed by a whole training."""

    ramp: float = Field(default=0.7, gt=0, le=1)
    """Share of the training's steps over which a schedule removes weights."""

    rounds: int | None = Field(default=None, ge=1)
    """Rounds of a schedule; null: 20, and 3 of `iterative`."""

    pattern: str | None = Field(default=None, pattern=r"^[1-9][0-9]{0,2}[:x][1-9][0-9]{0,2}$")
    """`N:M` keeps the N best of every M neighbouring inputs, such as `2:4`, in place of `sparsity`; `RxC` removes whole
    tiles of R outputs and C inputs, such as `32x32`. Either at once."""

    calibration_examples: int = Field(default=512, ge=1)
    """Training examples from which gradients are taken."""

    seed: int = 0
    """Seed of the criterion `random`, and of the batch of `snip`."""

    training: SparseTrainingParams | None = SparseTrainingParams()
    """Training of the sparse model against the teacher; null skips it."""

    @property
    def steps(self) -> int:
        """Return the number of rounds."""
        return self.rounds or (3 if self.schedule == "iterative" else 20)

    @model_validator(mode="after")
    def _rounds_can_be_scored(self) -> "UnstructuredPruning":
        if self.pattern is not None and self.schedule != "one_shot":
            raise ValueError(f"pattern {self.pattern}: the schedule must be one_shot")
        if self.pattern is not None and ":" in self.pattern:
            keep, group = (int(part) for part in self.pattern.split(":"))
            if keep >= group:
                raise ValueError(f"pattern {self.pattern}: N must be less than M")
        if self.schedule != "one_shot" and self.training is None:
            raise ValueError(f"schedule {self.schedule} removes weights during a training; training is null")
        if self.schedule in ("linear", "cubic") and self.criterion not in ("magnitude", "gradient", "taylor"):
            raise ValueError(f"schedule {self.schedule}: criterion must be magnitude, gradient or taylor")
        if self.schedule in ("linear", "cubic") and self.training is not None:
            self.training.refuse_early_weights(f"schedule {self.schedule}")
        if self.training is not None and self.training.lora is not None:
            raise ValueError("unstructured: adapters would fill what is removed; set training.lora: null")
        return self


class MovementPruning(Section):
    """Learn which weights to keep, by a score for each (Sanh et al. 2020, arXiv:2005.07683)."""

    method: Literal["movement"]

    variant: Literal["hard", "soft"] = "hard"
    """`hard` keeps the highest share of every matrix's scores; `soft` those above a threshold, as many as `penalty`
    leaves."""

    sparsity: float = Field(default=0.85, gt=0, lt=1)
    """hard: share of the weights of every matrix to remove."""

    threshold: float = Field(default=0.1, gt=0, lt=0.5)
    """soft: weights whose sigmoid(score) is above it are kept; at the start it is 0.5."""

    penalty: float = Field(default=1.0, ge=0)
    """soft: factor of the mean of sigmoid(score) in the loss."""

    score_learning_rate: float = Field(default=1e-2, gt=0)
    """Learning rate of the scores, far above that of the weights."""

    warmup: float = Field(default=0.1, ge=0, lt=1)
    """hard: share of the steps before the first weight is removed."""

    cooldown: float = Field(default=0.3, ge=0, lt=1)
    """hard: share of the steps after the last one."""

    rewind: Literal["none", "base"] = "base"
    """Which weights the training starts from: those of the pre-trained model, as in the paper, or the model's own."""

    seed: int = 0
    """Seed of the new head of the pre-trained model."""

    training: SparseTrainingParams = SparseTrainingParams()
    """The training against the teacher in which scores and weights are learnt."""

    @model_validator(mode="after")
    def _has_a_schedule(self) -> "MovementPruning":
        if self.warmup + self.cooldown >= 1:
            raise ValueError(f"warmup {self.warmup:g} + cooldown {self.cooldown:g}: together they must be below 1")
        self.training.refuse_early_weights("movement")
        return self


class LotteryTicketPruning(Section):
    """Train, remove weights, set the others back, and train again (Frankle and Carbin 2019, arXiv:1803.03635)."""

    method: Literal["lottery_ticket"]

    sparsity: float = Field(default=0.5, gt=0, lt=1)
    """Share of the weights of attentions and feed-forward networks to remove."""

    rounds: int = Field(default=3, ge=1)
    """Rounds of a training and a removal, each of the same share of what is left; one more training follows."""

    criterion: Literal["magnitude_and_gradient", "magnitude"] = "magnitude_and_gradient"
    """Which weights go after a training: those whose values and gradients are both small, or the smallest ones."""

    scope: Literal["global", "layer"] = "global"
    """Whether the share is of all layers together, or the same in every one."""

    rewind: Literal["start", "base"] = "start"
    """Set weights back to what they were in this method's first training, or to those of the pre-trained model."""

    rewind_after: float = Field(default=0.0, ge=0, lt=1)
    """With `start`: share of the first training's steps after which its weights are remembered."""

    control: Literal["none", "random_weights", "random_mask"] = "none"
    """Controls: in the last training, start the pruned layers from random weights, or keep as many of each layer's
    weights at random."""

    calibration_examples: int = Field(default=512, ge=1)
    """Training examples from which gradients are taken."""

    seed: int = 0
    """Seed of the controls, and of the new head of the pre-trained model."""

    training: RecoveryParams = RecoveryParams()
    """Each of the trainings against the teacher."""

    @model_validator(mode="after")
    def _can_be_rewound(self) -> "LotteryTicketPruning":
        if self.rewind == "base" and self.rewind_after:
            raise ValueError("rewind_after is of the first training; with rewind: base, leave it out")
        if self.training.lora is not None:
            raise ValueError("lottery_ticket: adapters would fill what is removed; set training.lora: null")
        return self
