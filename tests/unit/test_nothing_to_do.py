"""A method that would leave the model as it is gets refused: the manifest would tell of an edit that nobody finds."""

import pytest
from pydantic import TypeAdapter

from lissom.errors import InputError
from lissom.factorize.config import FactorizeMethod
from lissom.factorize.plan import plan as factors
from lissom.models.directory import load, save
from lissom.models.edits import HalfWeights, KeepHeads, KeepNeurons
from lissom.models.static_student import static_student
from lissom.prune.config import PruneMethod
from lissom.prune.plan import plan as pruned
from lissom.quantize.config import QuantizeMethod
from lissom.quantize.plan import plan as quantised
from lissom.training.lesson import Lesson
from tests.unit import tiny
from tests.unit.distill.recipes import tables_in

HALF, GROUPS = {"method": "half"}, {"method": "weight_only", "training": None, "table_bits": None}
WITH_TABLE = {**GROUPS, "table_bits": 8}


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@pytest.mark.parametrize("first", [HALF, GROUPS, WITH_TABLE])
@pytest.mark.parametrize("second", [HALF, GROUPS, WITH_TABLE])
def test_what_is_stored_in_fewer_bits_already_is_not_again(first, second, lesson):
    model = tiny.model("bert")
    methods = [TypeAdapter(QuantizeMethod).validate_python(params) for params in (first, second)]
    model.edit(quantised(model, lesson, methods[0]).edits)
    # Groups leave the classifier in floats, and the table, too, unless they are asked for it.
    if (first != HALF and second == HALF) or (first == GROUPS and second == WITH_TABLE):
        model.edit(quantised(model, lesson, methods[1]).edits)
        return
    with pytest.raises(InputError, match=r"no weights in 32 bits left|no layer to round"):
        model.edit(quantised(model, lesson, methods[1]).edits)


def test_a_folder_with_an_edit_that_changed_nothing_still_loads(tmp_path):
    model = tiny.model("bert")
    model.edit([HalfWeights(), HalfWeights()])
    save(model, tmp_path / "model")
    assert len(load(tmp_path / "model").manifest.edits) == 2


def test_one_kind_of_unit_may_stay_whole(lesson):
    """What changes nothing beside something that does is a coarse setting, and no mistake."""
    params = {"method": "first_order", "heads": 0.5, "neurons": 0.99, "neuron_multiple": 4096}
    heads, neurons = pruned(tiny.model("bert"), lesson, TypeAdapter(PruneMethod).validate_python(params)).edits
    assert isinstance(heads, KeepHeads) and isinstance(neurons, KeepNeurons)
    assert len(heads.kept[0]) + len(heads.kept[1]) < 8 and {len(kept) for kept in neurons.kept} == {48}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "first_order", "heads": 1, "neurons": 0.5, "neuron_multiple": 4096}, r"neurons: 0\.5 remove nothing.*in multiples of 4096"),
        ({"method": "hidden", "keep": 0.5, "multiple": 32}, r"prune\.keep: 0\.5 of 32 channels in multiples of 32 removes none"),
    ],
)  # fmt: skip
def test_multiples_that_leave_all_units(params, message, lesson):
    with pytest.raises(InputError, match=message):
        pruned(tiny.model("bert"), lesson, TypeAdapter(PruneMethod).validate_python(params))


@pytest.mark.parametrize("method", ["kronecker", "low_rank"])
def test_a_student_without_blocks_has_no_projections(method, lesson):
    params = {"method": method, **({"table": None} if method == "kronecker" else {})}
    student = static_student(tiny.model("bert"), embedding=16, classifier=12, dropout=0.2, seed=0)
    with pytest.raises(InputError, match=rf"{method}: the model has no projections of"):
        factors(student, lesson, TypeAdapter(FactorizeMethod).validate_python(params))
