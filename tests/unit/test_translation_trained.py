"""A trained translator: all interfaces give the same translation, students learn it, and damaged files are refused."""

import numpy as np
import pytest

import lissom
from lissom.data.batches import collate
from lissom.distill.material import Material
from lissom.distill.offline_config import LogitsDistillation
from lissom.distill.run import distill
from lissom.distill.sequence import written_by_teacher
from lissom.distill.sequence_config import SequenceDistillation
from lissom.errors import InputError
from lissom.evaluate.paired import changed_answers, compare_scores
from lissom.export.baselines import open_baselines, write_baselines
from lissom.export.exported import split_answers
from lissom.export.onnx import export_onnx
from lissom.models.base import load_base
from lissom.models.config import BaseParams
from lissom.models.generation import TorchModel
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.folder import DECODER, DamagedFolderError
from lissom.tracking.answering import answer
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from tests.unit.test_translation import COLD, SHAPE, TASK, TRAINING, export_again, pairs_of, tables_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that has learnt to translate a little, and its lesson."""
    folder = tmp_path_factory.mktemp("trained")
    lesson = Lesson(tables=tables_of(folder), scratch=folder)
    params = BaseParams(model="new:t5", shape=SHAPE, max_length=12)
    model = load_base(params, TASK, 0, texts=lambda: [text for row in pairs_of(80) for text in (row.text, row.label)])
    training = TrainingParams(**TRAINING)
    lesson.train(
        "training", model.network, lesson.encode(model, "train"), model.pad_id, against_targets(model.manifest.task), training,
        identity="", score=lesson.scorer(model, training),
    )  # fmt: skip
    return model, lesson


def test_a_trained_model_translates_from_every_place(trained, tmp_path):
    model, lesson = trained
    training = TrainingParams(**TRAINING)
    assert lesson.scorer(model, training)() > 0.5
    lissom.save(model, tmp_path / "model")
    folder = tmp_path / "export"
    folder.mkdir()
    file = export_onnx(model, folder)
    write_baselines(model, folder)
    test = lesson.encode(model, "test")
    answers = split_answers(file, test, model.manifest.task)
    texts = [row.text for row in lesson.tables["test"].rows()]
    served = [one["translation"] for one in OnnxClassifier(folder).predict(texts)]
    assert served == answers.tolist() == [one["translation"] for one in answer(texts, None, str(tmp_path / "model"))[1]]
    quality = model.manifest.task.quality(answers, answers, test.judged.targets, 10)
    assert (
        quality.agreement == 1
        and quality.score == quality.figures["bleu"] > 0.5
        and 0.5 < quality.figures["length_ratio"] < 1.5
    )
    paired = compare_scores(model.manifest.task, answers, answers, test.judged)
    assert paired.drop.value == paired.drop.low == paired.drop.high == 0
    (int8,) = open_baselines(folder).values()
    others = split_answers(int8, test, model.manifest.task)
    rows = changed_answers(model.manifest.task, others, answers, test.judged, lesson.tables["test"])
    assert len(rows) == int((others != answers).sum()) and all(row["variant"] != row["teacher"] for row in rows)


def test_a_student_learns_what_its_teacher_writes(trained, tmp_path):
    model, lesson = trained
    material = Material(**(vars(lesson) | {"scratch": tmp_path}), teacher=model)
    rows = list(written_by_teacher(2, material))
    texts = [row.text for row in lesson.tables["train"].rows()]
    assert [row.text for row in rows] == texts
    data = lesson.encode(model, "train")
    batch = collate(data, np.arange(8), model.pad_id)
    assert [row.label for row in rows[:8]] == [
        text.strip() or None for text in data.written.decode(TorchModel(model.network, 12, 2).generate(batch))
    ]
    params = SequenceDistillation(
        method="sequence", blocks=(0, 2), decoder_blocks=(0,), beams=2, training=TrainingParams(**TRAINING)
    )
    result = distill(params, material)
    config = result.model.network.config
    assert (config.num_layers, config.num_decoder_layers) == (2, 1) and result.metrics == {"written_texts": len(rows)}
    assert lesson.scorer(result.model, TrainingParams(**TRAINING))() > 0.3
    wrong = params.model_copy(update={"decoder_blocks": (0, 7)})
    with pytest.raises(
        InputError, match=r"distill.decoder_blocks: \[7\] do not exist; the teacher's decoder has blocks 0 to 2"
    ):
        distill(wrong, material)


def test_a_student_learns_the_probabilities_of_its_teacher(trained, tmp_path):
    """From the cache of the most likely tokens, for blocks of the encoder and as many of the decoder."""
    model, lesson = trained
    material = Material(**(vars(lesson) | {"scratch": tmp_path}), teacher=model)
    params = LogitsDistillation.model_validate({"method": "logits", "blocks": (0, 2), "training": TRAINING | COLD})
    result = distill(params, material)
    config = result.model.network.config
    assert (config.num_layers, config.num_decoder_layers) == (2, 2)
    assert lesson.scorer(result.model, TrainingParams(**TRAINING))() > 0.3


def test_a_damaged_decoder_is_told(trained, tmp_path):
    model, _ = trained
    export_onnx(model, tmp_path)
    content = (tmp_path / DECODER).read_bytes()
    (tmp_path / DECODER).write_bytes(content[:-10])
    with pytest.raises(DamagedFolderError, match=r"decoder\.onnx"):
        OnnxClassifier(tmp_path)
    (tmp_path / DECODER).unlink()
    with pytest.raises(DamagedFolderError, match=r"decoder\.onnx"):
        OnnxClassifier(tmp_path)
    (tmp_path / DECODER).write_bytes(content)
    export_again(tmp_path, beams=0)
    with pytest.raises(DamagedFolderError, match="beams must be"):
        OnnxClassifier(tmp_path)
