"""DistilBERT: labels, soft targets, and the direction of the last hidden states.

Sanh et al. 2019, arXiv:1910.01108, at task level: CE + alpha T^2 KL + weight (1 - cos), the cosine averaged over real
tokens. Optionally the student is pre-trained first, on the data's texts, against the base's language model
(`lissom.distill.language`). Returns the student.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.distill.features import hidden_cosine
from lissom.distill.language import pretrain
from lissom.distill.logits import distillation_loss
from lissom.distill.material import Distilled, Material
from lissom.distill.offline_config import DistilBertDistillation
from lissom.distill.teacher import Teacher
from lissom.models.families import blocks_of
from lissom.models.signals import Wanted, signals_of
from lissom.models.students import cut, distilbert_student, spread_blocks
from lissom.training.losses import Loss


def distill(params: DistilBertDistillation, material: Material) -> Distilled:
    """Make a student of the teacher's blocks and train it on labels, logits and last hidden states."""
    depth = len(blocks_of(material.teacher.network))
    blocks = params.blocks or spread_blocks(depth)
    student, trainings = cut(material.teacher, blocks), {}
    if params.pretraining is not None:
        trainings["pretraining"] = pretrain(student, blocks, params.pretraining, material)
    if params.architecture == "distilbert":
        student = distilbert_student(student, range(len(blocks)))
    data = material.lesson(student)
    with material.inner_signals(data, Wanted(hidden=(depth,)), params.signals, params.training) as teacher:
        trainings["training"] = material.train(
            "training", student.network, data, student.pad_id,
            cosine_loss(teacher, len(blocks), depth, params), params.training,
            identity=params.model_dump_json(), score=material.scorer(student, params.training), looks_inside=True,
        )  # fmt: skip
    return Distilled(student, trainings, {"blocks": list(blocks)})


def cosine_loss(teacher: Teacher, student_depth: int, teacher_depth: int, params: DistilBertDistillation) -> Loss:
    """Return the loss of a student against a teacher that gives its last hidden states."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(network, PreTrainedModel)
        goal = teacher.signals(batch)
        own = signals_of(network, batch, Wanted(hidden=(student_depth,)))
        cosine = hidden_cosine(own.hidden[student_depth], goal.hidden[teacher_depth], batch.attention_mask)
        hard_and_soft = distillation_loss(own.logits, goal.logits, batch.labels, params.training.loss)
        return hard_and_soft + params.cosine_weight * batch.token_weight * cosine

    return loss
