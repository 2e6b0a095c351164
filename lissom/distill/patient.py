"""BERT-PKD: a patient student also learns what the teacher's inner blocks make of the first token.

Sun et al. 2019, arXiv:1908.09355, eq. 5-6: CE and soft targets as usual, plus beta times the squared distance of the
normalised [CLS] vectors of student blocks 1..M-1 to the teacher blocks they are mapped to. Returns the student.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.distill.features import patience
from lissom.distill.logits import distillation_loss
from lissom.distill.mapping import patient
from lissom.distill.material import Distilled, Material
from lissom.distill.offline_config import PatientDistillation
from lissom.distill.teacher import Teacher
from lissom.models.families import blocks_of
from lissom.models.signals import Wanted, signals_of
from lissom.models.students import cut
from lissom.training.losses import Loss


def distill(params: PatientDistillation, material: Material) -> Distilled:
    """Cut the student out of the teacher and train it on logits and first tokens."""
    student = cut(material.teacher, params.blocks)
    targets = patient(len(params.blocks), len(blocks_of(material.teacher.network)), params.strategy)
    data = material.lesson(student)
    with material.inner_signals(
        data, Wanted(hidden=targets, first_token=True), params.signals, params.training
    ) as teacher:
        fitted = material.train(
            "training", student.network, data, student.pad_id, patient_loss(teacher, targets, params), params.training,
            identity=params.model_dump_json(), score=material.scorer(student, params.training), looks_inside=True,
        )  # fmt: skip
    layer_map = {f"student block {block}": f"teacher block {target}" for block, target in enumerate(targets, 1)}
    return Distilled(student, {"training": fitted}, {"layer_map": layer_map})


def patient_loss(teacher: Teacher, targets: tuple[int, ...], params: PatientDistillation) -> Loss:
    """Return the loss of a student against a teacher that gives the first token's states of blocks `targets`."""
    wanted = Wanted(hidden=tuple(range(1, len(targets) + 1)), first_token=True)

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(network, PreTrainedModel)
        goal, own = teacher.signals(batch), signals_of(network, batch, wanted)
        total = distillation_loss(own.logits, goal.logits, batch.labels, params.training.loss)
        for block, target in enumerate(targets, 1):
            total = total + params.beta * patience(own.hidden[block], goal.hidden[target])
        return total

    return loss
