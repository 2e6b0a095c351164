"""Gates with a target in operations or latency: costs are those of the edited models, and the target is met."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from lissom.errors import InputError
from lissom.models.edits import KeepBlocks, KeepHeads, KeepNeurons
from lissom.models.flops import flops_by_depth
from lissom.prune.gate_costs import with_costs
from lissom.prune.gate_groups import groups_of, smallest_share
from lissom.prune.plan import plan
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import test_translation as translation
from tests.unit import tiny
from tests.unit.distill.recipes import tables_in
from tests.unit.test_gates import params_of


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def operations(model):
    length = model.manifest.task.max_length
    return flops_by_depth(model.network, [length])[length][-1]


@pytest.mark.parametrize("family", tiny.able("heads"))
def test_costs_add_up_to_the_operations_of_what_is_left(family, lesson):
    model, params = tiny.model(family), params_of(of="flops", keep=0.9)
    groups, share = with_costs(model, lesson, groups_of(model.network, params), params)
    total = sum(group.units * group.cost for group in groups)
    assert share.keep == pytest.approx((0.9 - (1 - total)) / total)
    units = tiny.units(model.network)
    kept = {"heads": (units, units // 2, 1), "neurons": (48, 16, 40)}
    blocks = {group.block for group in groups if group.kind == "blocks" and group.path[-1] in "023"}
    left = 1 - total
    for kind, counts in kept.items():
        of_kind = [group for group in groups if group.kind == kind and group.block in blocks]
        left += sum(count * group.cost for count, group in zip(counts, of_kind, strict=True))
    left += sum(group.cost for group in groups if group.kind == "blocks" and group.path in blocks)
    before = operations(model)
    edits = [
        KeepBlocks(kept=(0, 2, 3)),
        KeepHeads(kept=tuple(tuple(range(count)) for count in kept["heads"])),
        KeepNeurons(kept=tuple(tuple(range(count)) for count in kept["neurons"])),
    ]
    model.edit(edits)
    assert left == pytest.approx(operations(model) / before, abs=0.03)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_trained_model_has_the_operations_that_were_asked_for(family, lesson):
    model, params = tiny.model(family), params_of(of="flops", keep=0.5)
    before, recipe = operations(model), plan(model, lesson, params)
    compress(model, recipe, lesson, LiveTeacher(tiny.model(family, 1).network), params.training)
    assert 0.3 < operations(model) / before < 0.53


def test_latency_is_measured_on_three_models(lesson):
    asked = []

    def measure(whole, edited, _):
        asked.append([edit.kind for edit in edited.manifest.edits])
        return 0.2 + 0.8 * edited.network.num_parameters() / whole.network.num_parameters()

    timed, model = replace(lesson, latency=measure), tiny.model("bert")
    recipe = plan(model, timed, params_of(of="latency", keep=0.8))
    assert asked == [["keep_heads"], ["keep_neurons"], ["keep_blocks"]]
    compress(model, recipe, timed, LiveTeacher(tiny.model("bert", 1).network), params_of().training)
    assert measure(tiny.model("bert"), model, None) == pytest.approx(0.8, abs=0.05)
    with pytest.raises(InputError, match=r"0\.3 of the latency cannot be reached"):
        plan(tiny.model("bert"), timed, params_of(of="latency", keep=0.3))


def test_blocks_alone_and_heads_of_a_t5(lesson, tmp_path):
    params = params_of(units=("blocks",), of="flops", keep=0.6)
    model = tiny.model("bert")
    groups, share = with_costs(model, lesson, groups_of(model.network, params), params)
    assert smallest_share(groups) < share.keep < 1
    t5, own = translation.model_of("t5"), Lesson(tables=translation.tables_of(tmp_path), scratch=tmp_path)
    params = params_of(units=("heads", "neurons", "blocks"), of="flops", keep=0.7)
    groups, _ = with_costs(t5, own, groups_of(t5.network, params), params)
    assert all(group.cost > 0 for group in groups if group.kind in ("heads", "neurons"))


def test_a_penalty_counts_parameters():
    with pytest.raises(ValidationError, match="give keep, or of: parameters"):
        params_of(of="latency", keep=None)
