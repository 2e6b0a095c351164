"""LayerDrop: blocks are left out while the network trains, as often as asked for, and evenly spaced ones stay."""

import pytest
import torch

from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.families import family_of
from lissom.models.sites import blocks_at, blocks_of
from lissom.prune.blocks import bypassed
from lissom.prune.config import LayerDropPruning
from lissom.prune.plan import plan
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import test_translation as translation
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in


def params_of(**changes):
    return LayerDropPruning.model_validate({"method": "layer_drop", "blocks": 2, "training": SHORT, **changes})


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_evenly_spaced_blocks_stay_as_they_were_trained(family, lesson, tmp_path):
    model, teacher, batch = tiny.model(family), LiveTeacher(tiny.model(family, 1).network), tiny.batch(family)
    result = compress(model, plan(model, lesson, params_of()), lesson, teacher, params_of().training)
    assert [edit.kept for edit in model.manifest.edits] == [(0, 3)] and result.metrics["drop"] == 0.5
    assert not any(block._forward_hooks for block in blocks_of(model.network))
    save(model, tmp_path / "model")
    with torch.no_grad():
        before, after = (logits_of(each.network.eval(), batch) for each in (model, load(tmp_path / "model")))
    assert torch.equal(before, after)


def test_blocks_are_left_out_as_often_as_asked_for():
    """Every block for itself, and only while the network trains; then it returns its input."""
    model, batch = tiny.model("llama"), tiny.batch("llama")
    plan(model, None, params_of(drop=0.3)).calibrate(model)
    seen = [[] for _ in range(4)]
    for place, block in enumerate(blocks_of(model.network)):
        block.register_forward_hook(
            lambda _, inputs, output, place=place: seen[place].append(
                torch.equal(inputs[0], output[0] if isinstance(output, tuple) else output)
            )
        )
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(300):
            logits_of(model.network.train(), batch)
    left_out = torch.tensor(seen).float()
    assert left_out.mean(1).tolist() == pytest.approx([0.3] * 4, abs=0.1)
    assert abs(float(torch.corrcoef(left_out).triu(1).sum())) < 1  # independent of each other
    for of_block in seen:
        of_block.clear()
    with torch.no_grad():
        logits_of(model.network.eval(), batch)
    assert not any(map(any, seen))


def test_a_block_that_is_left_out_has_no_gradient():
    model, batch = tiny.model("bert"), tiny.batch("bert")
    plan(model, None, params_of(drop=0.999)).calibrate(model)
    network = model.network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    logits = logits_of(network, batch)
    logits.sum().backward()
    assert all(not parameter.grad.any() for block in blocks_of(network) for parameter in block.parameters())
    other = tiny.model("bert")
    contexts = [bypassed(block) for block in blocks_of(other.network)]
    for context in contexts:
        context.__enter__()
    assert torch.allclose(logits, logits_of(other.network, batch), atol=1e-6)


def test_of_a_t5_the_first_block_is_never_left_out(tmp_path):
    """All others use the bias of relative positions that it computes."""
    model = translation.model_of("t5")
    recipe = plan(model, None, params_of(blocks=1, decoder_blocks=1, drop=0.5))
    recipe.calibrate(model)
    for path in ("encoder.block", "decoder.block"):
        hooked = [bool(block._forward_hooks) for block in model.network.get_submodule(path)]
        assert hooked == [number > 0 for number in range(len(hooked))]
    model.edit(recipe.finish(model))
    with torch.no_grad():
        assert logits_of(model.network.eval(), translation.batch_of(model, tmp_path)).isfinite().all()
    assert len(blocks_at(model.network, family_of(model.network).stacks[0])) == 1


def test_more_blocks_than_there_are_are_refused():
    with pytest.raises(InputError, match="5 blocks are to be kept; the model has 4"):
        plan(tiny.model("bert"), None, params_of(blocks=5))
