"""A technique that a family does not support is refused before the teacher is trained."""

import pytest

from lissom.components.teacher.work import check_later_stages
from lissom.errors import InputError
from lissom.params import check_params
from tests.unit import tiny
from tests.unit.test_language_modeling import TASK as LANGUAGE


def params_with(**sections):
    base = {"model": "dir:base", "max_length": 16}
    return check_params({"base": base, "data": {"source": "files:x"}, "prune": {"method": "none"}, **sections})


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"method": "fastbert"}, "distill.method: fastbert: not possible with a deberta-v2 .*cannot run apart"),
        ({"method": "deep_to_shallow"}, "distill.method: deep_to_shallow: not possible"),
        ({"method": "tinybert"}, "distill.method: tinybert: not possible with a deberta-v2 .*cannot be captured"),
    ],
    ids=["fastbert", "deep_to_shallow", "tinybert"],
)
def test_distillation(distill, message):
    with pytest.raises(InputError, match=message):
        check_later_stages(params_with(distill=distill), tiny.model("deberta-v2"))


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_factors_leave_a_scaled_word_table_alone(family):
    model = tiny.model(family)
    check_later_stages(params_with(factorize={"method": "low_rank"}), model)
    with pytest.raises(InputError, match=r"factorize\.method: kronecker, which changes the word table"):
        check_later_stages(params_with(factorize={"method": "kronecker"}), model)


def test_heads_that_the_kernel_of_language_models_cannot_have():
    params = params_with(data={"source": "files:x", "task": "language_modeling"}, factorize={"method": "none"})
    check_later_stages(params, tiny.model("llama", task=LANGUAGE))
    with pytest.raises(InputError, match="its heads are 12 wide, 4 more than a multiple of 8"):
        check_later_stages(params, tiny.model("llama", task=LANGUAGE, hidden_size=48, head_dim=12))
