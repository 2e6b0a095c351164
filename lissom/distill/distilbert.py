"""DistilBERT: labels, soft targets, and the cosine distance of the last hidden states.

Sanh et al. 2019, arXiv:1910.01108, at task level: CE + alpha T^2 KL + weight (1 - cos), the cosine averaged over real
tokens. Optionally the student is pre-trained first, on the data's texts, against the base's language model
(`lissom.distill.language`). Returns the student.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.distill.features import hidden_cosine
from lissom.distill.language import pretrain
from lissom.distill.material import DistillationResult, Material
from lissom.distill.offline_config import DistilBertDistillation
from lissom.models.signals import Signals, SignalSpec, signals_of
from lissom.models.sites import blocks_of
from lissom.models.students import distilbert_student, spread_blocks, take_blocks
from lissom.tasks.task import Task
from lissom.training.losses import distillation_loss
from lissom.training.objective import Objective, Term, tokens
from lissom.training.teacher import Teacher


def distill(params: DistilBertDistillation, material: Material) -> DistillationResult:
    """Train a student of the teacher's blocks on labels, logits and last hidden states."""
    depth = len(blocks_of(material.teacher.network))
    blocks = params.blocks or spread_blocks(depth)
    student, trainings = take_blocks(material.teacher, blocks), {}
    if params.pretraining is not None:
        trainings["pretraining"] = pretrain(student, blocks, params.pretraining, material)
    if params.architecture == "distilbert":
        student = distilbert_student(student, range(len(blocks)))
    data = material.texts(student)
    with material.inner_signals(data, SignalSpec(hidden=(depth,)), params.signals, params.training) as teacher:
        trainings["training"] = material.train(
            "training", student.network, data, student.pad_id,
            cosine_loss(teacher, len(blocks), depth, params, material.task), params.training,
            identity=params.model_dump_json(), score=material.scorer(student, params.training),
        )  # fmt: skip
    return DistillationResult(student, trainings, {"blocks": list(blocks)})


def cosine_loss(
    teacher: Teacher, student_depth: int, teacher_depth: int, params: DistilBertDistillation, task: Task
) -> Objective:
    """Return the loss of a student against a teacher that returns its last hidden states."""

    def forward(network: nn.Module, batch: Batch) -> tuple[Signals, Signals]:
        assert isinstance(network, PreTrainedModel)
        target = teacher.signals(batch)
        return signals_of(network, batch, SignalSpec(hidden=(student_depth,))), target

    def logits(signals: tuple[Signals, Signals], batch: Batch) -> Tensor:
        student, target = signals
        return distillation_loss(task, student.logits, target.logits, batch.targets, params.training.loss)

    def cosine(signals: tuple[Signals, Signals], batch: Batch) -> Tensor:
        student, target = signals
        return hidden_cosine(student.hidden[student_depth], target.hidden[teacher_depth], batch.mask)

    terms = (Term(logits), Term(cosine, over=tokens, weight=params.cosine_weight))
    return Objective(forward, terms, needs_internals=True)
