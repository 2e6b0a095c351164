import copy

import pytest
import torch
from torch.nn import functional as F

from lissom.data.batches import sorted_batches
from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.edits import KeepHeads, KeepNeurons
from lissom.models.sites import attention_sites, blocks_of, sites_of_kind
from lissom.prune.config import FirstOrderPruning
from lissom.prune.first_order import plan, select
from lissom.prune.importance import gated, head_importance, neuron_importance
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.loop import fit
from tests.unit import tiny
from tests.unit.distill.recipes import tables_in
from tests.unit.test_loop import examples
from tests.unit.test_translation import model_of, tables_of

LOSS = tiny.TASK.loss
families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)


def one_by_one(batch):
    return [batch.examples(torch.tensor([i])) for i in range(len(batch))]


@families
def test_gate_gradient_is_activation_times_gradient(family):
    """|dL/dxi| of one example equals |sum over tokens and columns of a * dL/da| (Michel et al. 2019, §2.2)."""
    model = tiny.model(family)
    batch = one_by_one(tiny.batch(family))[0]
    inputs = []
    handles = [
        model.network.get_submodule(site.output).register_forward_pre_hook(
            lambda _, args: (args[0].retain_grad(), inputs.append(args[0]))[2:] or None
        )
        for site in attention_sites(model.network)
    ]
    F.cross_entropy(logits_of(model.network, batch), batch.targets).backward()
    for handle in handles:
        handle.remove()
    units = tiny.units(model.network)
    for score, tensor in zip(head_importance(model.network, [batch], LOSS), inputs, strict=True):
        by_hand = (tensor * tensor.grad).view(1, -1, units, tensor.shape[-1] // units).sum((0, 1, 3)).abs()
        assert torch.allclose(score, by_hand.detach(), atol=1e-6)


@families
@pytest.mark.parametrize("measure", [head_importance, neuron_importance])
def test_absolute_values_are_per_example(family, measure):
    model, batch = tiny.model(family), tiny.batch(family)
    together = measure(model.network, [batch], LOSS)
    apart = measure(model.network, one_by_one(batch), LOSS)
    for left, right in zip(together, apart, strict=True):
        assert torch.allclose(left, right, atol=1e-6)


def test_mean_of_absolutes_is_at_least_the_absolute_of_the_mean():
    model, batch = tiny.model("bert"), tiny.batch("bert")
    gates = [torch.ones(1, 4, requires_grad=True) for _ in range(4)]
    projections = [block.attention.output.dense for block in blocks_of(model.network)]
    with gated(projections, gates, 8):
        F.cross_entropy(logits_of(model.network, batch), batch.targets).backward()
    for score, gate in zip(head_importance(model.network, [batch], LOSS), gates, strict=True):
        assert (score >= gate.grad.abs()[0] - 1e-7).all()


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize(("measure", "edit"), [(head_importance, KeepHeads), (neuron_importance, KeepNeurons)])
def test_the_order_of_importance_loses_less_than_a_random_one(family, measure, edit):
    """Half of the units of networks that have learnt a task, but not so well that their gradients vanish."""
    params = TrainingParams(epochs=3, batch_size=8, learning_rate=5e-3, precision="float32", freeze_word_table=False)
    by_importance, at_random = [], []
    for seed in range(4):
        model, data = tiny.model(family, seed), examples(96, seed)
        fit(model.network, data, model.pad_id, tiny.LOSS, params)
        (batch,) = sorted_batches(data, 96, model.pad_id)

        def loss_after(scores, model=model, batch=batch) -> float:
            pruned = copy.deepcopy(model)
            pruned.edit([edit(kept=select(scores, 0.5, 1, uniform=True))])
            with torch.no_grad():
                return float(tiny.LOSS(pruned.network, batch))

        scores = measure(model.network, sorted_batches(data, 32, model.pad_id), LOSS)
        generator = torch.Generator().manual_seed(seed)
        orders = [[torch.rand(len(score), generator=generator) for score in scores] for _ in range(8)]
        by_importance.append(loss_after(scores))
        at_random.append(sum(map(loss_after, orders)) / len(orders))
    ratios = torch.tensor(by_importance).log() - torch.tensor(at_random).log()
    assert float(ratios.mean()) < -0.02, (by_importance, at_random)


def test_permuting_heads_permutes_importance():
    model, batch = tiny.model("bert"), tiny.batch("bert")
    before = head_importance(model.network, [batch], LOSS)
    order = [2, 0, 3, 1]
    rows = torch.tensor([head * 8 + i for head in order for i in range(8)])
    for block in blocks_of(model.network):
        attention = block.attention.self
        for linear in (attention.query, attention.key, attention.value):
            linear.weight.data, linear.bias.data = linear.weight.data[rows], linear.bias.data[rows]
        block.attention.output.dense.weight.data = block.attention.output.dense.weight.data[:, rows]
    for old, new in zip(before, head_importance(model.network, [batch], LOSS), strict=True):
        assert torch.allclose(old[order], new, atol=1e-6)


def test_parameters_removed_per_head():
    model = tiny.model("bert")
    before = model.network.num_parameters()
    model.edit([KeepHeads(kept=((0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)))])
    width, head = 32, 8
    assert before - model.network.num_parameters() == 3 * (width * head + head) + width * head


def test_importance_leaves_no_gradients_and_no_hooks():
    model, batch = tiny.model("bert"), tiny.batch("bert")
    head_importance(model.network, [batch], LOSS)
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert not any(module._forward_pre_hooks for module in model.network.modules())


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.77, 1.0])
def test_budget_is_met_exactly_and_is_nested(share):
    scores = [torch.rand(12, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    kept = select(scores, share, 1, uniform=False)
    assert sum(map(len, kept)) == max(4, -(-round(share * 48 * 1e6) // 10**6))
    assert all(kept)
    wider = select(scores, min(1.0, share + 0.2), 1, uniform=False)
    assert all(set(small) <= set(large) for small, large in zip(kept, wider, strict=True))


def test_neurons_are_kept_in_multiples_and_ties_break_by_position():
    scores = [torch.ones(64), torch.ones(64)]
    assert select(scores, 0.5, 16, uniform=True) == (tuple(range(32)),) * 2
    counts = [len(kept) for kept in select([torch.rand(64), torch.rand(64) * 9], 0.4, 16, uniform=False)]
    assert all(count % 16 == 0 and count for count in counts)
    assert sum(counts) == 64  # ceil(0.4 * 8 groups) = 4 groups


def test_the_best_heads_of_a_block_stay():
    assert select([torch.tensor([0.1, 0.9, 0.5]), torch.tensor([3.0, 2.0, 1.0])], 0.5, 1, uniform=False) == (
        (1,),
        (0, 1),
    )


@pytest.mark.parametrize("family", tiny.able("heads"))
def test_rounds_measure_again_and_end_at_the_same_size(family, tmp_path):
    lesson = Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)
    edits = {}
    for rounds in (1, 2, 3):
        params = FirstOrderPruning(method="first_order", heads=0.5, neurons=0.5, neuron_multiple=8, rounds=rounds)
        model = tiny.model(family)
        edits[rounds] = plan(model, lesson, params).edits
        assert model.manifest.edits == ()
        model.edit(edits[rounds])
    for by_rounds in zip(*edits.values(), strict=True):
        assert len({sum(map(len, edit.kept)) for edit in by_rounds}) == 1


def test_the_second_round_is_by_the_importance_of_what_the_first_one_left(tmp_path):
    lesson = Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)
    params = FirstOrderPruning(method="first_order", heads=0.5, neurons=1, rounds=2)
    model = tiny.model("bert")
    (actual,) = plan(model, lesson, params).edits
    (first,) = plan(model, lesson, params.model_copy(update={"heads": 0.75, "rounds": 1})).edits
    model.edit([first])
    (second,) = plan(model, lesson, params.model_copy(update={"heads": 8 / 12, "rounds": 1})).edits
    kept = tuple(tuple(heads[unit] for unit in units) for heads, units in zip(first.kept, second.kept, strict=True))
    assert actual.kept == kept


def test_only_one_kind_of_attention_is_pruned(tmp_path):
    model = model_of("bart")
    lesson = Lesson(tables=tables_of(tmp_path), scratch=tmp_path)
    params = FirstOrderPruning(method="first_order", heads=0.5, neurons=1, attention="cross", calibration_examples=16)
    (edit,) = plan(model, lesson, params).edits
    names = [site.name for site in attention_sites(model.network)]
    assert {len(kept) for kept, name in zip(edit.kept, names, strict=True) if "cross" not in name} == {4}
    of_kind = [kept for kept, name in zip(edit.kept, names, strict=True) if "cross" in name]
    assert sum(map(len, of_kind)) == 2 * len(of_kind)
    with pytest.raises(InputError, match="has no such attention"):
        sites_of_kind(tiny.model("bert").network, "cross")
