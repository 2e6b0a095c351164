"""Soft targets: the student learns the teacher's softened distribution over labels.

Hinton et al. 2015, arXiv:1503.02531; the weighting CE + alpha T^2 KL is that of task-level DistilBERT (Sanh et al.
2019, arXiv:1910.01108, §3). Returns a student of some of the teacher's blocks.
"""

from collections.abc import Iterator

from lissom.console import note
from lissom.distill.material import DistillationResult, Material
from lissom.distill.offline_config import LogitsDistillation
from lissom.models.compressed import CompressedModel
from lissom.models.edits import UseAttention
from lissom.models.sites import first_blocks
from lissom.models.students import evenly_spaced, randomized, take_stacks
from lissom.training.loop import TrainingResult
from lissom.training.losses import against_teacher


def distill(params: LogitsDistillation, material: Material) -> DistillationResult:
    """Cut the student out of the teacher and train it on the teacher's logits.

    With `max_dev_drop`, larger students follow until one is good enough; the metrics tell the blocks of the last one.
    """
    metric, teacher = material.task.metric, material.teacher
    reference = None if params.max_dev_drop is None else material.scorer(teacher, params.training)()
    trainings: dict[str, TrainingResult] = {}
    for blocks in attempts(params.blocks, len(first_blocks(teacher.network))):
        phase = f"training-{len(blocks)}-blocks" if trainings else "training"
        student, trainings[phase] = _train(params, material, blocks, phase)
        if reference is None or params.max_dev_drop is None:
            break
        drop = metric.drop(reference, material.scorer(student, params.training)())
        if drop <= params.max_dev_drop:
            break
        note(
            f"distill: {len(blocks)} blocks lose {drop:.4f} of {metric.name} on dev, distill.max_dev_drop is "
            f"{params.max_dev_drop:g}"
        )
    return DistillationResult(student, trainings, {"blocks": list(blocks)})


def attempts(blocks: tuple[int, ...], available: int) -> Iterator[tuple[int, ...]]:
    """Yield the given blocks, then ever more: each time half of those that are missing, evenly spaced."""
    yield blocks
    count = len(blocks)
    while count < available:
        count += (available - count + 1) // 2
        yield evenly_spaced(count, available)


def _train(
    params: LogitsDistillation, material: Material, blocks: tuple[int, ...], phase: str
) -> tuple[CompressedModel, TrainingResult]:
    student = take_stacks(material.teacher, blocks, params.decoder_blocks)
    if params.start == "random":
        student = randomized(student, params.training.seed)
    if params.attention:
        student.edit([UseAttention(patterns=params.attention)])
    result = material.train(
        phase,
        student.network,
        material.texts(student),
        student.pad_id,
        against_teacher(material.teacher_logits(params.training), params.training.loss, material.task),
        params.training,
        identity=params.model_dump_json(),
        score=material.scorer(student, params.training),
    )
    return student, result
