"""Params of one training, independent of its loss."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.section import Section


class LoraParams(Section):
    """Low-rank adapters beside frozen weights (LoRA, Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(default=16, ge=1)
    """Rank of the matrix that is added to every weight of the blocks."""

    alpha: float = Field(default=32, gt=0)
    """The product of the two matrices is multiplied by `alpha` / `rank`."""


class TrainingParams(Section):
    """One call of `fit`."""

    epochs: float = Field(default=2, gt=0, allow_inf_nan=False)
    """Passes over the training set; a fraction stops within one."""

    batch_size: int = Field(default=32, ge=1)
    """Examples per optimiser step."""

    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate of AdamW."""

    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up: in a line or along a cosine down to 0, or constant."""

    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from 0."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay; biases and norms are exempt."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""

    freeze_word_table: bool = True
    """Leave the word embeddings as they are: half of a small encoder's parameters, and of AdamW's time."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast type; `auto` is bfloat16 where the processor multiplies it natively, else float32."""

    compile: bool = False
    """Run blocks as generated kernels (torch.compile), for accelerators: costs a minute or two at first."""

    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs without a better dev score, at the latest after `epochs`; null trains all `epochs`.
    The learning rate follows `schedule` over all `epochs` in either case."""

    keep: Literal["best", "last"] = "best"
    """Which weights the training returns: the best by dev score (one look per epoch) or the last."""

    lora: LoraParams | None = None
    """Train low-rank adapters in place of the weights of the blocks, and merge them at the end: less memory, since
    AdamW keeps no moments of frozen weights. They need a higher learning rate than the weights."""

    gradient_checkpointing: bool = False
    """Keep only the inputs of blocks, and compute what is inside again for the gradients: less memory, and a second
    forward pass."""

    seed: int = 0
    """Seed of the data order, the dropout masks and new weights."""


CACHED_TOKENS = 64


class TeacherParams(TrainingParams):
    """The teacher: the base model, fine-tuned or as it is."""

    method: Literal["fine_tune", "none"] = "fine_tune"
    """`none` takes the base model as it is; its head must be trained for the task already."""

    cached_tokens: int = Field(default=CACHED_TOKENS, ge=1)
    """Language models: so many probabilities are cached for every position, and the sum of all others."""


class LogitsLossParams(Section):
    """Soft targets: `CE(student, label) + alpha * T^2 * KL(teacher || student)` (Hinton et al. 2015)."""

    temperature: float = Field(default=2.0, gt=0)
    """T: both distributions are softened by it."""

    alpha: float = Field(default=0.5, ge=0)
    """Weight of the soft term."""

    mixing: Literal["sum", "convex"] = "sum"
    """`sum`: CE + alpha KL. `convex`: (1 - alpha) CE + alpha KL."""

    @model_validator(mode="after")
    def _convex_needs_a_share(self) -> "LogitsLossParams":
        if self.mixing == "convex" and self.alpha > 1:
            raise ValueError(f"alpha is {self.alpha}: with mixing: convex it is a share, at most 1")
        return self


class RecoveryParams(TrainingParams):
    """A training against the teacher's logits, after a step that hurt the model."""

    loss: LogitsLossParams = LogitsLossParams()
    """The distillation loss of the training."""


class BudgetParams(Section):
    """What the edited model may cost, as a share of what the model costs that the method is given."""

    of: Literal["parameters", "flops", "latency"] = "parameters"
    """All parameters, embeddings included; the operations of a text of the longest length; or the time that the
    exported file takes for a text of dev, measured on one CPU of this machine, in floats."""

    keep: float = Field(default=0.5, gt=0, lt=1)
    """The share to stay within."""
