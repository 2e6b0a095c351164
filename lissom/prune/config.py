"""Params of pruning: a list of methods."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lissom.prune.sparse_config import (
    LotteryTicketPruning,
    MovementPruning,
    SparseTrainingParams,
    UnstructuredPruning,
)
from lissom.section import Methods, Section
from lissom.training.config import BudgetParams, RecoveryParams

AttentionKind = Literal["all", "encoder", "decoder", "cross"]


class FirstOrderPruning(Section):
    """Remove the heads and FFN neurons with the least first-order importance."""

    method: Literal["first_order"]

    heads: float = Field(default=0.5, gt=0, le=1)
    """Share of all attention heads to keep, over all blocks; every block keeps at least one."""

    head_criterion: Literal["gradient", "relevance", "confidence"] = "gradient"
    """What tells how much a head matters: the derivative of the loss by a gate on it, its share in the relevance of the
    predicted logit, or its largest attention weight (both Voita et al. 2019, arXiv:1905.09418, section 4)."""

    attention: AttentionKind = "all"
    """Which attention's heads are removed; the last three are of encoder-decoders."""

    neurons: float = Field(default=0.5, gt=0, le=1)
    """Share of all FFN neurons to keep, over all blocks; every block keeps at least `neuron_multiple`."""

    neuron_multiple: int = Field(default=32, ge=1)
    """Every block keeps a multiple of this number of neurons, for efficient kernels."""

    budget: BudgetParams | None = None
    """Find one share of heads and neurons, in place of `heads` and `neurons`; a 1 there still keeps all."""

    uniform: bool = False
    """Keep the same counts in every block."""

    rounds: int = Field(default=1, ge=1)
    """Rounds of equal size before the training, each by importance that is measured anew."""

    calibration_examples: int = Field(default=512, ge=1)
    """Training examples over which importance is averaged."""

    training: RecoveryParams | None = RecoveryParams()
    """Training of the pruned model against the teacher; null skips it."""


class BlocksPruning(Section):
    """Remove whole Transformer blocks (Men et al. 2024, arXiv:2403.03853; Sajjad et al. 2023, arXiv:2004.03844)."""

    method: Literal["blocks"]

    blocks: int | None = Field(default=None, ge=1)
    """Number of blocks to keep; of an encoder-decoder, of the encoder's. Null where `budget` tells it."""

    decoder_blocks: int | None = Field(default=None, ge=1)
    """Number of the decoder's blocks to keep, of an encoder-decoder; null keeps all."""

    budget: BudgetParams | None = None
    """Keep as many blocks as a budget allows, in place of the numbers; of an encoder-decoder the same share of both."""

    criterion: Literal["influence", "leave_one_out", "top", "bottom", "alternate"] = "influence"
    """Which blocks go: those that turn the hidden states of tokens least, those without which the loss is lowest, the
    top ones, the bottom ones, or evenly spaced ones between the first and the last."""

    calibration_examples: int = Field(default=64, ge=1)
    """Training examples on which the first two criteria are measured."""

    training: RecoveryParams | None = RecoveryParams()
    """Training of the model with fewer blocks against the teacher; null skips it."""

    @model_validator(mode="after")
    def _has_one_size(self) -> "BlocksPruning":
        _check_one_size(self)
        return self


class LayerDropPruning(Section):
    """Train with whole blocks left out at random, then keep evenly spaced ones (Fan et al. 2019, arXiv:1909.11556)."""

    method: Literal["layer_drop"]

    blocks: int | None = Field(default=None, ge=1)
    """Number of blocks to keep; of an encoder-decoder, of the encoder's. Null where `budget` tells it."""

    decoder_blocks: int | None = Field(default=None, ge=1)
    """Number of the decoder's blocks to keep, of an encoder-decoder; null keeps all."""

    budget: BudgetParams | None = None
    """Keep as many blocks as a budget allows, in place of the numbers; of an encoder-decoder the same share of both."""

    drop: float | None = Field(default=None, ge=0, lt=1)
    """Probability that a block is left out in a step; null takes the share of the blocks that go in the end."""

    training: RecoveryParams = RecoveryParams()
    """The training of the whole model against the teacher in which blocks are left out."""

    @model_validator(mode="after")
    def _has_one_size(self) -> "LayerDropPruning":
        _check_one_size(self)
        return self


def _check_one_size(params: BlocksPruning | LayerDropPruning) -> None:
    if (params.blocks is None) == (params.budget is None) or (params.budget and params.decoder_blocks is not None):
        raise ValueError("blocks and budget: give one of them, the numbers of blocks or what they may cost")


class HiddenPruning(Section):
    """Remove hidden channels, the same ones from all layers (Muralidharan et al. 2024, arXiv:2407.14679)."""

    method: Literal["hidden"]

    keep: float = Field(default=0.75, gt=0, le=1)
    """Share of the hidden channels to keep, rounded down to `multiple`."""

    budget: BudgetParams | None = None
    """Keep as many channels as a budget allows, in place of `keep`."""

    multiple: int = Field(default=32, ge=1)
    """A multiple of this number of channels is kept, for efficient kernels; 256 for the K types of GGUF."""

    criterion: Literal["gradient", "activation", "magnitude"] = "gradient"
    """What tells how much a channel matters: the sum of |w dL/dw| over its weights, the size of its activations, or the
    norm of its weights."""

    calibration_examples: int = Field(default=512, ge=1)
    """Training examples over which the first two criteria are averaged."""

    training: RecoveryParams | None = RecoveryParams()
    """Training of the narrow model against the teacher; null skips it."""


GatedUnits = Literal["heads", "neurons", "blocks", "channels"]


class GatesPruning(Section):
    """Learn which heads, neurons, blocks and hidden channels to keep, by a gate on each (Voita et al. 2019,
    arXiv:1905.09418; together, to a target size: Xia et al. 2022, arXiv:2204.00408)."""

    method: Literal["gates"]

    units: tuple[GatedUnits, ...] = ("heads", "neurons", "blocks")
    """What has gates: heads, neurons, blocks, channels; with several, they are chosen together."""

    attention: AttentionKind = "all"
    """Which attention's heads have gates; the last three are of encoder-decoders."""

    keep: float | None = Field(default=0.5, gt=0, lt=1)
    """Share of the parameters to keep, of those that gates can remove; or share of all operations, or of the measured
    latency. Null lets `penalty` decide."""

    of: Literal["parameters", "flops", "latency"] = "parameters"
    """What `keep` is a share of. Operations are those of a text of the longest length; latency is that of the exported
    file in floats, for texts of dev, on one CPU of this machine."""

    penalty: float = Field(default=1.0, ge=0)
    """Without `keep`: factor in the loss of the expected share of parameters behind open gates."""

    neuron_multiple: int = Field(default=32, ge=1)
    """Every block keeps a multiple of this number of neurons, for efficient kernels."""

    channel_multiple: int = Field(default=32, ge=1)
    """A multiple of this number of hidden channels is kept."""

    gate_learning_rate: float = Field(default=0.1, gt=0)
    """Learning rate of the gates, far above that of the weights."""

    multiplier_learning_rate: float = Field(default=0.1, gt=0)
    """Learning rate of the two Lagrange multipliers that hold the expected share at its target."""

    layer_distillation: float = Field(default=0, ge=0)
    """Factor in the loss of the distance between hidden states and those of the model before pruning, at four blocks of
    it, each to the nearest block that is left (CoFi); 0 leaves it out."""

    warmup: float = Field(default=0.2, ge=0, lt=1)
    """Share of the steps over which the target falls from 1 to `keep`."""

    cooldown: float = Field(default=0.4, ge=0, lt=1)
    """Share of the steps, the last ones, that train what is left, with gates fixed at 0 or 1."""

    training: SparseTrainingParams = SparseTrainingParams()
    """The training against the teacher in which gates and weights are learnt."""

    @model_validator(mode="after")
    def _has_a_schedule(self) -> "GatesPruning":
        if not self.units or len(set(self.units)) < len(self.units):
            raise ValueError(
                f"units {list(self.units)}: name heads, neurons, blocks and channels at most once, and one of them"
            )
        if self.warmup + self.cooldown >= 1:
            raise ValueError(f"warmup {self.warmup:g} + cooldown {self.cooldown:g}: together they must be below 1")
        if self.of != "parameters" and self.keep is None:
            raise ValueError(
                f"of {self.of}: keep is null, and a penalty counts parameters; give keep, or of: parameters"
            )
        self.training.refuse_early_weights("gates")
        return self


PruneMethod = Annotated[
    FirstOrderPruning
    | BlocksPruning
    | LayerDropPruning
    | HiddenPruning
    | GatesPruning
    | UnstructuredPruning
    | MovementPruning
    | LotteryTicketPruning,
    Field(discriminator="method"),
]
"""All methods; with more than one, a union discriminated by `method`."""

PruneParams = Methods[PruneMethod]
