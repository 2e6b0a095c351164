"""Born-again networks: a network of the same architecture starts over and learns from the one before.

Furlanello et al. 2018, arXiv:1805.04770: CE plus soft targets of the previous generation. Where the paper starts every
generation at random, a pre-trained Transformer starts at its pre-trained weights by default. Returns the last one.
"""

from lissom.distill.material import Distilled, Material
from lissom.distill.self_config import BornAgainDistillation
from lissom.models.compressed import CompressedModel
from lissom.models.students import randomized, take_blocks
from lissom.training.loop import TrainingResult
from lissom.training.losses import against_teacher
from lissom.training.teacher import LiveTeacher, Teacher


def distill(params: BornAgainDistillation, material: Material) -> Distilled:
    """Train generation after generation."""
    parent: Teacher = material.teacher_logits(params.training)
    trainings, scores = {}, {}
    for number in range(1, params.generations + 1):
        child = _newborn(params, material, number)
        fitted: TrainingResult = material.train(
            f"generation-{number}", child.network, material.texts(child), child.pad_id,
            against_teacher(parent, params.training.loss, material.task), params.training,
            identity=params.model_dump_json(), score=material.scorer(child, params.training),
        )  # fmt: skip
        trainings[f"generation {number}"] = fitted
        scores[f"generation {number}"] = fitted.best_score
        parent = LiveTeacher(child.network)
    return Distilled(child, trainings, {"dev_score_by_generation": scores})


def _newborn(params: BornAgainDistillation, material: Material, number: int) -> CompressedModel:
    seed = params.training.seed + number
    if params.start == "base":
        return take_blocks(material.load_base(seed), params.blocks)
    return randomized(take_blocks(material.teacher, params.blocks), seed)
