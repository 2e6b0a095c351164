"""MobileBERT: a thin, deep student learns feature maps and attention of every block of its teacher.

Sun et al. 2020, arXiv:2004.02984, §3.4-3.5. The student has the teacher's hidden size, so that feature maps need no
projections, and its number of heads. `progressive` transfers one block after the other with the rest frozen; `joint`
all blocks at once; `auxiliary` together with the task. A training on labels and logits follows. Returns the student.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.distill.features import attention_kl, hidden_mse
from lissom.distill.material import DistillationResult, Material
from lissom.distill.offline_config import MobileBertDistillation
from lissom.errors import InputError
from lissom.models.families import family_of
from lissom.models.signals import Signals, SignalSpec, expose_scores, signals_of
from lissom.models.sites import blocks_of
from lissom.models.students import mobilebert_student
from lissom.training.loop import TrainingResult
from lissom.training.losses import against_teacher
from lissom.training.objective import Objective, Term, tokens
from lissom.training.teacher import Teacher


def distill(params: MobileBertDistillation, material: Material) -> DistillationResult:
    """Build the student, transfer knowledge block by block, then train it on the task.

    Raises:
        InputError: the teacher's attention is causal, or the student has not as many blocks as the teacher.
    """
    if family_of(material.teacher.network).decoder:
        raise InputError(
            f"distill.method: mobilebert has a bidirectional student, and this teacher, a "
            f"{material.teacher.network.config.model_type}, is causal: its attention cannot be transferred; use "
            "method: tinybert, patient or logits, or a bidirectional base.model"
        )
    shape = params.shape
    student = mobilebert_student(
        material.teacher, blocks=shape.blocks, bottleneck=shape.bottleneck_size, intermediate=shape.intermediate_size,
        ffns=shape.ffns, embedding=shape.embedding_size, seed=params.training.seed,
    )  # fmt: skip
    network, depth = student.network, len(blocks_of(student.network))
    available = len(blocks_of(material.teacher.network))
    if depth != available:
        raise InputError(
            f"distill.shape.blocks: {depth} given; each block learns from its own of the teacher, which has {available}"
        )
    data, identity = material.texts(student), params.model_dump_json()
    trainings: dict[str, TrainingResult] = {}
    all_blocks = tuple(range(1, depth + 1))
    spec = SignalSpec(hidden=all_blocks, scores=tuple(range(depth)))
    task = against_teacher(material.teacher_logits(params.training), params.training.loss, material.task)
    with (
        material.inner_signals(data, spec, params.signals, params.transfer_training) as teacher,
        expose_scores(network),
    ):
        match params.strategy:
            case "progressive":
                for block in all_blocks:
                    with only_block(network, block):
                        trainings[f"block {block}"] = material.train(
                            f"block-{block}", network, data, student.pad_id, transfer_loss(teacher, [block], params),
                            params.transfer_training, identity=identity,
                        )  # fmt: skip
            case "joint":
                trainings["transfer"] = material.train(
                    "transfer", network, data, student.pad_id, transfer_loss(teacher, all_blocks, params),
                    params.transfer_training, identity=identity,
                )  # fmt: skip
            case "auxiliary":
                task = _sum(task, transfer_loss(teacher, all_blocks, params))
        trainings["training"] = material.train(
            "training", network, data, student.pad_id, task, params.training,
            identity=identity, score=material.scorer(student, params.training),
        )  # fmt: skip
    return DistillationResult(student, trainings)


def transfer_loss(teacher: Teacher, blocks: Sequence[int], params: MobileBertDistillation) -> Objective:
    """Return the loss of feature maps and attention of some blocks (1-based), summed over them (§3.4)."""
    spec = SignalSpec(hidden=tuple(blocks), scores=tuple(block - 1 for block in blocks))

    def forward(network: nn.Module, batch: Batch) -> tuple[Signals, Signals]:
        assert isinstance(network, PreTrainedModel)
        target = teacher.signals(batch)
        return signals_of(network, batch, spec), target

    def features(block: int) -> Term:
        return Term(
            lambda signals, batch: hidden_mse(signals[0].hidden[block], signals[1].hidden[block], batch.mask),
            over=tokens, weight=params.feature_weight,
        )  # fmt: skip

    def attention(block: int) -> Term:
        return Term(
            lambda signals, batch: attention_kl(signals[0].scores[block - 1], signals[1].scores[block - 1], batch.mask),
            over=tokens, weight=params.attention_weight,
        )  # fmt: skip

    terms = [term for block in blocks for term in (features(block), attention(block))]
    return Objective(forward, tuple(terms), needs_internals=True)


@contextmanager
def only_block(network: PreTrainedModel, block: int) -> Iterator[None]:
    """Freeze all parameters but those of one block (1-based; for the first also the embeddings) within the context."""
    trainable = set(blocks_of(network)[block - 1].parameters())
    if block == 1:
        trainable.update(network.get_submodule(family_of(network).embeddings).parameters())
    parameters = [
        parameter for parameter in network.parameters() if parameter not in trainable and parameter.requires_grad
    ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _sum(first: Objective, second: Objective) -> Objective:
    """Return the sum of two objectives, each with its own forward pass."""

    def forward(network: nn.Module, batch: Batch) -> tuple[Any, Any]:
        return first.forward(network, batch), second.forward(network, batch)

    def indexed(term: Term, place: int) -> Term:
        return replace(term, value=lambda outputs, batch: term.value(outputs[place], batch))

    terms = [indexed(term, place) for place, part in enumerate((first, second)) for term in part.terms]
    return Objective(forward, tuple(terms), f"{first.identity} {second.identity}", needs_internals=True)
