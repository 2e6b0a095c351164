"""A trained language model: it learns, students learn from it, and its file continues texts as the model does."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lissom
from lissom.data.batches import collate
from lissom.distill.distilbert import cosine_loss
from lissom.distill.material import Material
from lissom.distill.run import distill
from lissom.errors import ParamsError
from lissom.export.onnx import export_onnx
from lissom.models.signals import SignalSpec, signals_of
from lissom.params import check_params
from lissom.serving.classifier import OnnxClassifier
from lissom.tracking.answering import answer
from lissom.training.config import RecoveryParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.teacher import LiveTeacher
from tests.unit.distill.recipes import params_of
from tests.unit.test_language_modeling import TASK, TRAINING, model_of, tables_of


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learnt")
    tables = tables_of(folder)
    teacher = model_of("llama")
    lesson = Lesson(tables=tables, scratch=folder)
    params = RecoveryParams(**TRAINING)
    before = lesson.scorer(teacher, params)()
    result = lesson.train(
        "teacher", teacher.network, lesson.encode(teacher, "train"), teacher.pad_id, against_targets(TASK), params,
        identity="", score=lesson.scorer(teacher, params),
    )  # fmt: skip
    return Material(teacher=teacher, tables=tables, scratch=folder), before, result


def test_it_is_learnt_and_distilled_from_cached_tokens(learnt):
    material, before, result = learnt
    assert result.best_score < 12 < before  # seven words are possible after another, or six
    training = TRAINING | {"loss": {"temperature": 1.0}}
    student = distill(params_of("logits", blocks=[0, 3], training=training), material)
    score = material.scorer(student.model, RecoveryParams(**TRAINING))()
    assert score < 15
    assert material.teacher_logits(RecoveryParams(**TRAINING)).values.shape[1] == 2 * 64 + 1


def test_it_is_distilled_by_hidden_states_too(learnt):
    material, _, _ = learnt
    training = TRAINING | {"loss": {"temperature": 1.0}}
    result = distill(params_of("distilbert", blocks=[0, 3], training=training), material)
    assert material.scorer(result.model, RecoveryParams(**TRAINING))() < 15
    student, data = result.model, material.texts(material.teacher)
    batch = collate(data, np.arange(6), student.pad_id)
    params = params_of("distilbert", cosine_weight=3.0, training=training)
    teacher = LiveTeacher(material.teacher.network, SignalSpec(hidden=(4,)))
    with torch.no_grad():
        value = cosine_loss(teacher, 2, 4, params, TASK)(student.network.eval(), batch)
        ours = signals_of(student.network, batch, SignalSpec(hidden=(2,)))
        theirs = signals_of(material.teacher.network.eval(), batch, SignalSpec(hidden=(4,)))
        soft = F.kl_div(ours.logits.log_softmax(-1), theirs.logits.softmax(-1), reduction="batchmean")
        hard = F.cross_entropy(ours.logits, batch.targets[:, 0])
        cosines = F.cosine_similarity(ours.hidden[2], theirs.hidden[4], dim=-1)[batch.mask.bool()]
    expected = hard + params.training.loss.alpha * soft + 3.0 * (1 - cosines.mean())
    assert float(value) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"pretraining": {}}, "is that already"),
        ({"signals": {"source": "cached"}}, "a distribution over all tokens for every token"),
    ],
)
def test_params_of_hidden_states(section, message):
    params = {"base": {"model": "dir:x"}, "data": {"source": "files:x", "task": "language_modeling"}}
    training = {"loss": {"temperature": 1.0}}
    check_params({**params, "distill": {"method": "distilbert", "training": training}})
    with pytest.raises(ParamsError, match=message):
        check_params({**params, "distill": {"method": "distilbert", "training": training, **section}})


def test_texts_are_continued_by_file_and_model_alike(learnt, tmp_path):
    material, _, _ = learnt
    model = material.teacher
    (tmp_path / "export").mkdir()
    export_onnx(model, tmp_path / "export")
    served = OnnxClassifier(tmp_path / "export")
    texts = ["the film good", "bad " + "plot the " * 30]
    answers = served.predict(texts)
    assert all(set(one) == {"continuation"} for one in answers) and len(answers[0]["continuation"].split()) > 1
    lissom.save(model, tmp_path / "model")
    assert answer(texts, None, str(tmp_path / "model"))[1] == answers
