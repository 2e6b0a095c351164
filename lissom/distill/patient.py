"""BERT-PKD: the student also learns one token's hidden states in the teacher's inner blocks.

Sun et al. 2019, arXiv:1908.09355, eq. 5-6: CE and soft targets as usual, plus beta times the squared distance of the
normalised [CLS] vectors of student blocks 1..M-1 to the teacher blocks they are mapped to. With causal attention the
last real token takes the place of [CLS], since the first one sees only itself. Returns the student.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.distill.features import patience
from lissom.distill.mapping import patient
from lissom.distill.material import DistillationResult, Material
from lissom.distill.offline_config import PatientDistillation
from lissom.models.signals import Signals, SignalSpec, signals_of
from lissom.models.sites import blocks_of
from lissom.models.students import take_blocks
from lissom.tasks.task import Task
from lissom.training.losses import distillation_loss
from lissom.training.objective import Objective, Term, examples
from lissom.training.teacher import Teacher


def distill(params: PatientDistillation, material: Material) -> DistillationResult:
    """Cut the student out of the teacher and train it on logits and hidden states."""
    student = take_blocks(material.teacher, params.blocks)
    targets = patient(len(params.blocks), len(blocks_of(material.teacher.network)), params.strategy)
    data = material.texts(student)
    with material.inner_signals(
        data, SignalSpec(hidden=targets, pooled=True), params.signals, params.training
    ) as teacher:
        result = material.train(
            "training", student.network, data, student.pad_id,
            patient_loss(teacher, targets, params, material.task), params.training,
            identity=params.model_dump_json(), score=material.scorer(student, params.training),
        )  # fmt: skip
    layer_map = {f"student block {block}": f"teacher block {target}" for block, target in enumerate(targets, 1)}
    return DistillationResult(student, {"training": result}, {"layer_map": layer_map})


def patient_loss(teacher: Teacher, targets: tuple[int, ...], params: PatientDistillation, task: Task) -> Objective:
    """Return the loss of a student against a teacher that returns pooled states of blocks `targets`."""
    spec = SignalSpec(hidden=tuple(range(1, len(targets) + 1)), pooled=True)

    def forward(network: nn.Module, batch: Batch) -> tuple[Signals, Signals]:
        assert isinstance(network, PreTrainedModel)
        target_signals = teacher.signals(batch)
        return signals_of(network, batch, spec), target_signals

    def logits(signals: tuple[Signals, Signals], batch: Batch) -> Tensor:
        student, target_signals = signals
        return distillation_loss(task, student.logits, target_signals.logits, batch.targets, params.training.loss)

    def states(block: int, target: int) -> Term:
        return Term(
            lambda signals, _: patience(signals[0].hidden[block], signals[1].hidden[target]),
            over=examples, weight=params.beta,
        )  # fmt: skip

    terms = (Term(logits), *(states(block, target) for block, target in enumerate(targets, 1)))
    return Objective(forward, terms, needs_internals=True)
