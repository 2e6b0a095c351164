"""TinyBERT: a student of any shape learns embeddings, hidden states and attention scores, then the logits.

Jiao et al. 2020, arXiv:1909.10351. Where widths differ, a learned projection maps the student's to the teacher's (eq.
8-9); it is used in training only and not saved. The two phases are separate trainings: inner signals, then logits.
Returns the student; the layer map is in the metrics.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.distill.augment import more_texts
from lissom.distill.features import hidden_mse, score_mse
from lissom.distill.mapping import explicit, uniform
from lissom.distill.material import DistillationResult, Material
from lissom.distill.offline_config import ShapeParams, TinyBertDistillation
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.families import family_of
from lissom.models.signals import (
    Signals,
    SignalSpec,
    count_visible_pairs,
    expose_scores,
    signals_of,
    visible_pairs,
)
from lissom.models.sites import blocks_of, keep_layer_types
from lissom.models.students import reshaped, take_blocks
from lissom.models.together import Together
from lissom.tasks.task import Task
from lissom.training.objective import Objective, Term, examples, objective, tokens
from lissom.training.teacher import Teacher


def distill(params: TinyBertDistillation, material: Material) -> DistillationResult:
    """Build the student, train it on inner signals, then on logits.

    Raises:
        InputError: `compat` with a causal teacher, a layer map that does not fit, or an impossible shape.
    """
    available = len(blocks_of(material.teacher.network))
    if params.compat and family_of(material.teacher.network).decoder:
        raise InputError(
            f"distill.compat: true given, and the teacher, a {material.teacher.network.config.model_type}, is causal; "
            "the released code is for bidirectional networks: set compat: false"
        )
    student = make_student(params, material.teacher)
    targets = layer_map(params, len(blocks_of(student.network)), available)
    more = None
    if params.augmentation is not None:
        more = more_texts(params.augmentation, material.tables["train"], material.scratch)
    data = material.texts(student, more)
    trainings, identity = {}, params.model_dump_json()
    if params.layers_training is not None:
        projections = Projections(student.network, material.teacher.network, shared=params.compat)
        with (
            material.inner_signals(
                data, teacher_signals(targets, params), params.signals, params.layers_training
            ) as teacher,
            expose_scores(student.network),
        ):
            trainings["layers"] = material.train(
                "layers", Together([student.network, projections]), data, student.pad_id,
                layers_loss(teacher, targets, params, student.network), params.layers_training, identity=identity,
            )  # fmt: skip
    answers = material.teacher_logits(params.training, more)
    trainings["training"] = material.train(
        "training", student.network, data, student.pad_id, prediction_loss(answers, params, material.task),
        params.training, identity=identity, score=material.scorer(student, params.training),
    )  # fmt: skip
    metrics = {
        "layer_map": {
            f"student block {block}": f"teacher block {target}" for block, target in enumerate(targets[1:], 1)
        },
        "augmented_texts": 0 if more is None else len(more),
    }
    return DistillationResult(student, trainings, metrics)


def make_student(params: TinyBertDistillation, teacher: CompressedModel) -> CompressedModel:
    """Return a student of the teacher's blocks, or one of its own shape with random weights.

    Raises:
        InputError: the teacher's heads do not divide the width: attention is matched head by head.
    """
    if params.blocks is not None:
        return take_blocks(teacher, params.blocks)
    shape, stack = params.shape or ShapeParams(), family_of(teacher.network).stack
    heads = teacher.network.config.num_attention_heads
    if shape.hidden_size % heads:
        raise InputError(
            f"distill.shape.hidden_size: {shape.hidden_size} is not divisible by the teacher's {heads} heads, "
            "and attention is matched head by head"
        )
    config = copy.deepcopy(teacher.network.config)
    config.hidden_size = shape.hidden_size
    setattr(config, stack.config_blocks, shape.blocks)
    setattr(config, stack.config_neurons, shape.intermediate_size)
    if getattr(config, "head_dim", None):
        config.head_dim = shape.hidden_size // heads
    targets = layer_map(params, shape.blocks, len(blocks_of(teacher.network)))
    keep_layer_types(config, [target - 1 for target in targets[1:]])  # attention sees what its teacher's does
    return reshaped(teacher, config, params.training.seed)


def layer_map(params: TinyBertDistillation, student: int, teacher: int) -> tuple[int, ...]:
    """Return the index of the teacher's hidden state for each of the student's, 0..M."""
    return uniform(student, teacher) if params.layer_map is None else explicit(params.layer_map, student, teacher)


def teacher_signals(targets: tuple[int, ...], params: TinyBertDistillation) -> SignalSpec:
    """Return the signals of the teacher that the first phase compares; the released code also compares padding."""
    scores = tuple(target - 1 for target in targets[1:])
    return SignalSpec(hidden=targets, scores=scores, padding=params.compat)


class Projections(nn.Module):
    """Projections from the student's width to the teacher's; identities if the widths are equal.

    One projection is for the embeddings, one for all blocks.

    Args:
        student: the student.
        teacher: the teacher.
        shared: use one projection with a bias for both, even if the widths are equal, as the released code does.
    """

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel, *, shared: bool = False) -> None:
        super().__init__()
        narrow, wide = student.config.hidden_size, teacher.config.hidden_size
        equal = narrow == wide and not shared
        self.hidden: nn.Module = nn.Identity() if equal else nn.Linear(narrow, wide, bias=shared)
        self.embedding: nn.Module = nn.Identity() if equal else self.hidden
        if not equal and not shared:
            self.embedding = nn.Linear(narrow, wide, bias=False)

    def forward(self, hidden: Tensor, entry: int) -> Tensor:
        """Map entry `entry` of the student's hidden states, `[batch, n, d_s]`, to `[batch, n, d_t]`."""
        output: Tensor = self.hidden(hidden) if entry else self.embedding(hidden)
        return output


def layers_loss(
    teacher: Teacher, targets: tuple[int, ...], params: TinyBertDistillation, student: PreTrainedModel
) -> Objective:
    """Return the loss of the first phase, for a student `Together` with its projections (eq. 7-9, 11).

    Attention is compared for the pairs of tokens that the student's attention sees.

    Args:
        teacher: returns the hidden states `targets` and the scores before each of them but the first.
        targets: entries of the teacher's hidden states, for each entry of the student's.
        params: weights.
        student: the student, whose kind of attention is read here.
    """
    depth = len(targets) - 1
    spec = SignalSpec(hidden=tuple(range(depth + 1)), scores=tuple(range(depth)))

    def forward(network: nn.Module, batch: Batch) -> _Outputs:
        assert isinstance(network, Together)
        learner, projections = network
        target_signals, student_signals = teacher.signals(batch), signals_of(learner, batch, spec)
        hidden = {entry: projections(student_signals.hidden[entry], entry) for entry in range(depth + 1)}
        return _Outputs(
            hidden, student_signals.scores, target_signals, torch.ones_like(batch.mask) if params.compat else batch.mask
        )

    def hidden(entry: int, target: int) -> Term:
        weight = params.hidden_weight if entry else params.embedding_weight
        return Term(
            lambda outputs, _: hidden_mse(outputs.hidden[entry], outputs.target.hidden[target], outputs.mask),
            over=examples if params.compat else tokens, weight=weight,
        )  # fmt: skip

    def scores(block: int, target: int) -> Term:
        def value(outputs: _Outputs, batch: Batch) -> Tensor:
            student_signals, target_signals = outputs.scores[block], outputs.target.scores[target - 1]
            if params.compat:
                return _released_score_mse(student_signals, target_signals, batch.mask)
            return score_mse(student_signals, target_signals, visible_pairs(student, block, batch.mask))

        over = examples if params.compat else count_visible_pairs(student, block)
        return Term(value, over=over, weight=params.attention_weight)

    terms = [hidden(entry, target) for entry, target in enumerate(targets)]
    terms += [scores(block, target) for block, target in enumerate(targets[1:])]
    return Objective(forward, tuple(terms), needs_internals=True)


@dataclass(frozen=True)
class _Outputs:
    hidden: dict[int, Tensor]
    """The student's projected hidden states, by entry."""
    scores: dict[int, Tensor]
    target: Signals
    mask: Tensor


def _released_score_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the MSE over all pairs, padded queries included, with the scores of padded keys set to 0."""
    padding = ~mask.bool()[:, None, None, :]
    everything = torch.ones_like(padding).expand(-1, 1, mask.shape[1], -1)
    return score_mse(student.masked_fill(padding, 0.0), teacher.masked_fill(padding, 0.0), everything)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return -softmax(teacher / T) log softmax(student / T) over logits `[batch, labels]`, averaged over examples."""
    target = F.softmax(teacher.detach().float() / temperature, dim=-1)
    return -(target * F.log_softmax(student.float() / temperature, dim=-1)).sum(-1).mean()


def prediction_loss(teacher: Teacher, params: TinyBertDistillation, task: Task) -> Objective:
    """Return the loss of the second phase (eq. 10); for regression, the task's soft loss."""
    soft = soft_cross_entropy if task.is_distribution else task.soft_loss

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        logits = logits_of(network, batch)
        value = soft(logits, teacher.signals(batch).logits, params.temperature)
        return value / logits.shape[-1] if params.compat else value

    return objective(loss)
