"""Distilling a Transformer's logits into mean-pooled token vectors with a small head: no blocks, no attention.

The vectors start from the teacher's word table, reduced to fewer dimensions and weighted by rarity, and are trained
with the head on the soft targets of Hinton et al. 2015 (as `logits`). Published relatives are model2vec, POTION and
WordLlama, which distil such tables for any text; this one is made for one task. Returns the student.
"""

from lissom.distill.blockless_config import StaticDistillation
from lissom.distill.material import DistillationResult, Material
from lissom.models.static_student import static_student, weigh_by_rarity
from lissom.models.vocabulary import count_tokens
from lissom.training.losses import against_teacher


def distill(params: StaticDistillation, material: Material) -> DistillationResult:
    """Build the student and train it on the teacher's logits."""
    training = params.training
    student = static_student(
        material.teacher, embedding=params.embedding_size, classifier=params.classifier_size, dropout=params.dropout,
        seed=training.seed,
    )  # fmt: skip
    data = material.texts(student)
    if params.token_weights == "rarity":
        weigh_by_rarity(student, count_tokens(data.tokens, student.network.config.vocab_size))
    result = material.train(
        "training",
        student.network,
        data,
        student.pad_id,
        against_teacher(material.teacher_logits(training), training.loss, material.task),
        training,
        identity=params.model_dump_json(),
        score=material.scorer(student, training),
    )
    return DistillationResult(student, {"training": result})
