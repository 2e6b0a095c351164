"""Born-again networks: each generation, of the same architecture, is distilled from the previous one.

Furlanello et al. 2018, arXiv:1805.04770: CE plus soft targets of the previous generation. The paper initialises every
generation at random; here the default is the pre-trained weights. Returns the last generation.
"""

from lissom.distill.material import DistillationResult, Material
from lissom.distill.self_config import BornAgainDistillation
from lissom.models.compressed import CompressedModel
from lissom.models.students import randomized, take_blocks
from lissom.training.loop import TrainingResult
from lissom.training.losses import against_teacher
from lissom.training.teacher import LiveTeacher, Teacher


def distill(params: BornAgainDistillation, material: Material) -> DistillationResult:
    """Train all generations in sequence."""
    parent: Teacher = material.teacher_logits(params.training)
    trainings, scores = {}, {}
    for number in range(1, params.generations + 1):
        child = _initial_model(params, material, number)
        result: TrainingResult = material.train(
            f"generation-{number}", child.network, material.texts(child), child.pad_id,
            against_teacher(parent, params.training.loss, material.task), params.training,
            identity=params.model_dump_json(), score=material.scorer(child, params.training),
        )  # fmt: skip
        trainings[f"generation {number}"] = result
        scores[f"generation {number}"] = result.best_score
        parent = LiveTeacher(child.network)
    return DistillationResult(child, trainings, {"dev_score_by_generation": scores})


def _initial_model(params: BornAgainDistillation, material: Material, number: int) -> CompressedModel:
    seed = params.training.seed + number
    if params.start == "base":
        return take_blocks(material.load_base(seed), params.blocks)
    return randomized(take_blocks(material.teacher, params.blocks), seed)
