"""A teacher that knows the task, and what its students are given."""

import pytest

from lissom.data.encoding import encode
from lissom.data.tables import write_table
from lissom.distill.material import Material
from lissom.training.config import TrainingParams
from lissom.training.loop import fit
from tests.unit import tiny
from tests.unit.distill.recipes import FAST, sentences, tables_in


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    model = tiny.model("bert")
    table = write_table(folder / "train.arrow", sentences(96, 0, True))
    data = encode([table], model.tokenizer, 16, tiny.TASK.targets, folder / "tokens")
    fit(model.network, data, 0, tiny.LOSS, TrainingParams(**FAST))
    assert tiny.scorer(model, data)() > 0.95
    return model


@pytest.fixture
def material(teacher, tmp_path):
    return Material(
        teacher=teacher, tables=tables_in(tmp_path), scratch=tmp_path, base=lambda seed: tiny.model("bert", seed)
    )
