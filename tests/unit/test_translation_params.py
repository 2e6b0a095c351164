"""Params of translation: what is refused by the params alone, and what by the family before a teacher is trained."""

import pytest

from lissom.components.preflight import preflight
from lissom.components.teacher.work import check_later_stages
from lissom.errors import InputError, ParamsError
from lissom.params import check_params
from tests.unit.test_translation import COLD, model_of


def params_with(**sections):
    base = {"base": {"model": "new:t5"}, "data": {"source": "files:x", "task": "translation"}}
    return check_params({**base, **sections})


def test_params_of_translation(tmp_path, monkeypatch):
    assert params_with(distill={"method": "sequence", "blocks": [0, 1]}).data.predicts_tokens
    for sections, message in (
        ({"distill": {"method": "lstm"}}, "not made for data.task: translation; allowed: none, logits, sequence"),
        ({"factorize": {"method": "word_table", "min_count": 2}}, "min_count above 1 divides training texts"),
        ({"distill": {"method": "logits", "blocks": [0]}}, "exact at temperature 1 only"),
        ({"data": {"source": "files:x", "task": "translation", "text_pair": "b"}}, "translation is for single texts"),
        (
            {"data": {"source": "files:x"}, "distill": {"method": "sequence", "blocks": [0]}},
            "learns texts that the teacher writes",
        ),
    ):
        with pytest.raises(ParamsError, match=message):
            params_with(**sections)
    monkeypatch.chdir(tmp_path)
    preflight(params_with())  # a new model has no folder that could be missing


def test_what_a_later_stage_cannot_do_is_told_before_the_teacher_is_trained():
    model = model_of("t5")
    check_later_stages(params_with(prune={"method": "first_order", "training": COLD}), model)
    with pytest.raises(InputError, match=r"factorize\.method: word_table, .*: not possible with a t5"):
        check_later_stages(
            params_with(factorize={"method": "word_table", "rank": 8, "min_count": None, "training": COLD}), model
        )
    for method, values in (("kronecker", {}), ("tensor_train", {"ffn": 4})):
        of_table = {"method": method, "training": COLD, **values}
        with pytest.raises(InputError, match=f"factorize.method: {method}, which changes the word table"):
            check_later_stages(params_with(factorize=of_table), model)
        check_later_stages(params_with(factorize={**of_table, "table": None}), model)
    check_later_stages(params_with(factorize={"method": "low_rank", "training": COLD}), model)
    check_later_stages(params_with(factorize={"method": "word_table", "training": COLD}), model)
    check_later_stages(params_with(prune={"method": "gates", "training": COLD}), model)
    confident = {"method": "first_order", "head_criterion": "confidence", "training": COLD}
    check_later_stages(params_with(prune=confident), model_of("bart"))
