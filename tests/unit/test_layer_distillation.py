"""Hidden states of a model in pruning stay near those of the whole model, block by block the nearest one."""

import pytest
import torch

from lissom.data.batches import Batch
from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import KeepBlocks
from lissom.models.signals import SignalSpec, signals_of
from lissom.prune.config import GatesPruning
from lissom.prune.layer_distillation import LayerDistillation
from lissom.prune.plan import plan
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import test_translation as translation
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in


def without_dropout(model):
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.network.train()
    return model


def distance_of(followed: LayerDistillation, network, batch: Batch) -> torch.Tensor:
    logits_of(network, batch)
    return followed.term.value(None, batch)


@pytest.mark.parametrize("family", tiny.able("hidden"))
def test_a_model_is_at_no_distance_from_itself(family):
    model, batch = without_dropout(tiny.model(family)), tiny.batch(family)
    followed = LayerDistillation(model.network, 1.0)
    followed.watch(model.network)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    assert float(distance_of(followed, model.network, batch).detach()) < 1e-8
    for parameter in model.network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    for table in model.network.modules():  # a MobileBERT's token reads the vector after it
        if isinstance(table, torch.nn.Embedding) and table.padding_idx is not None:
            table.weight.data[table.padding_idx] = 0
    distance = distance_of(followed, model.network, batch)
    distance.backward()
    assert float(distance.detach()) > 1e-3 and model.network.layer_map.grad.any()
    assert not any((before[name] == value).all() for name, value in model.network.named_parameters())
    padded = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in batch.inputs.items()}
    longer = Batch(**{**vars(batch), "inputs": padded})
    assert float(distance_of(followed, model.network, longer).detach()) == pytest.approx(
        float(distance.detach()), rel=1e-4
    )


def test_every_followed_block_has_the_nearest_one():
    model, batch = without_dropout(tiny.model("bert")), tiny.batch("bert")
    followed, whole = LayerDistillation(model.network, 1.0), tiny.model("bert").network.eval()
    KeepBlocks(kept=(0, 3)).apply(model.network)
    followed.watch(model.network)
    found = float(distance_of(followed, model.network, batch).detach())
    real = batch.mask.bool()
    with torch.no_grad():
        targets = signals_of(whole, batch, SignalSpec(hidden=(1, 2, 3, 4))).hidden
        states = signals_of(model.network.eval(), batch, SignalSpec(hidden=(1, 2))).hidden
    expected = [
        min(float((state[real] - target[real]).square().mean()) for state in states.values())
        for target in targets.values()
    ]
    assert found == pytest.approx(sum(expected) / 4, rel=1e-4) and expected[0] < 1e-8


def test_gates_are_learnt_with_it(tmp_path):
    """The pruned model is nearer to the whole one than without, and nothing of it is left."""
    lesson, batch = Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path), tiny.batch("bert")
    distances = []
    for weight in (0.0, 10.0):
        model, teacher = tiny.model("bert"), tiny.model("bert")
        params = GatesPruning.model_validate({
            "method": "gates", "units": ["neurons"], "keep": 0.5, "neuron_multiple": 8, "layer_distillation": weight,
            "training": SHORT | {"epochs": 6},
        })  # fmt: skip
        compress(model, plan(model, lesson, params), lesson, LiveTeacher(teacher.network), params.training)
        assert not hasattr(model.network, "layer_map")
        assert not any(module._forward_hooks for module in model.network.modules())
        save(model, tmp_path / str(weight))
        with torch.no_grad():
            assert torch.equal(
                logits_of(load(tmp_path / str(weight)).network, batch), logits_of(model.network.eval(), batch)
            )
            ends = [
                signals_of(one.network.eval(), batch, SignalSpec(hidden=(4,))).hidden[4] for one in (model, teacher)
            ]
        distances.append(float((ends[0] - ends[1])[batch.mask.bool()].square().mean()))
    assert distances[1] < distances[0]


def test_two_stacks_are_refused():
    with pytest.raises(InputError, match=r"prune\.layer_distillation: not possible with a bart"):
        LayerDistillation(translation.model_of("bart").network, 1.0)
