"""Soft targets: the student learns the teacher's softened distribution over labels.

Hinton et al. 2015, arXiv:1503.02531; the weighting CE + alpha T^2 KL is that of task-level DistilBERT (Sanh et al.
2019, arXiv:1910.01108, §3). Returns a student of some of the teacher's blocks.
"""

from lissom.distill.material import DistillationResult, Material
from lissom.distill.offline_config import LogitsDistillation
from lissom.models.students import randomized, take_blocks
from lissom.training.losses import against_teacher


def distill(params: LogitsDistillation, material: Material) -> DistillationResult:
    """Cut the student out of the teacher and train it on the teacher's logits."""
    student = take_blocks(material.teacher, params.blocks)
    if params.start == "random":
        student = randomized(student, params.training.seed)
    result = material.train(
        "training",
        student.network,
        material.texts(student),
        student.pad_id,
        against_teacher(material.teacher_logits(params.training), params.training.loss, material.task),
        params.training,
        identity=params.model_dump_json(),
        score=material.scorer(student, params.training),
    )
    return DistillationResult(student, {"training": result})
