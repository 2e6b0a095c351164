"""Distilling into a student without blocks: what the teacher's answers are good for."""

import torch

from lissom.distill.run import distill
from lissom.tasks.labels import soft_target_loss
from lissom.training.predicting import predict
from tests.unit.distill.recipes import FAST, params_of


def distance(student, material) -> float:
    """KL(teacher || student) over the training texts."""
    answers = predict(student.network, material.texts(student), student.pad_id)
    return float(soft_target_loss(answers, material.teacher_logits(params_of("static").training).values, 1.0))


def test_soft_targets_bring_it_nearer_to_its_teacher(material):
    weights, kept = {"labels alone": 0.0, "teacher": 5.0}, FAST | {"keep": "last", "epochs": 30, "learning_rate": 2e-2}
    distances = {
        name: distance(distill(params_of("static", training=kept | {"loss": {"alpha": alpha}}), material).model, material)
        for name, alpha in weights.items()
    }  # fmt: skip
    assert distances["teacher"] < distances["labels alone"] / 2


def test_it_starts_from_weighted_vectors_of_the_teacher(material):
    frozen = FAST | {"epochs": 1, "freeze_word_table": True}
    tables = {
        weights: distill(params_of("static", token_weights=weights, training=frozen), material)
        .model.network.embeddings.word_embeddings.weight.detach()
        for weights in ("rarity", "equal")
    }  # fmt: skip
    ratio = tables["rarity"].norm(dim=1) / tables["equal"].norm(dim=1)
    data = material.texts(distill(params_of("static", training=frozen), material).model)
    seen = torch.from_numpy(data.tokens.copy()).long().unique()
    unseen = torch.ones(len(ratio), dtype=torch.bool).index_fill(0, seen, False)
    assert (ratio[seen] < 0.5).all() and torch.allclose(ratio[unseen], torch.ones(int(unseen.sum())))
