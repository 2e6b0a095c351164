"""Params that are checked for one stage alone, and numbers that no stage can use."""

import re
from pathlib import Path

import pytest

from lissom.components.specs import COMMON_SECTIONS, STAGES
from lissom.errors import ParamsError
from lissom.params import check_params, load_params

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "params").glob("*.yaml"))], ids=lambda p: p.stem
)
@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_a_stage_alone_takes_its_part_of_every_shipped_file(path, spec):
    whole = load_params(path).model_dump(mode="json")
    part = {name: whole[name] for name in {*COMMON_SECTIONS, *spec.sections}}
    params = check_params(part, of_one_stage=True).model_dump(mode="json")
    assert all(params[name] == whole[name] for name in part)


@pytest.mark.parametrize(
    "override, says",
    [
        ("distill.training.seed=-1", "distill.training.seed: -1; seeds are 0 or greater"),
        ("teacher.learning_rate=.inf", "teacher.learning_rate: inf; a finite number is expected"),
        ("evaluate.batch_sizes=[0]", "greater than or equal to 1"),
        ("prune.0.heads=1", "prune.0: unknown key"),
        ("1=2", "1: unknown key"),
    ],
)
def test_numbers_that_no_stage_can_use_are_refused(override, says):
    with pytest.raises(ParamsError, match=re.escape(says)):
        load_params(ROOT / "params.yaml", [override])
