"""Pruning of whole blocks: removed is bypassed, and the criteria find the block that does least."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import KeepBlocks
from lissom.models.families import family_of
from lissom.models.sites import blocks_at, blocks_of
from lissom.prune.blocks import block_influence, by_position, bypassed, highest
from lissom.prune.config import BlocksPruning
from lissom.prune.plan import plan
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import test_translation as translation
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in

PARAMS = BlocksPruning(method="blocks", blocks=2, training=SHORT)
families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@families
def test_planning_leaves_the_model_as_it_is(family, lesson):
    model, same = tiny.model(family), tiny.model(family)
    plan(model, lesson, PARAMS)
    assert model.manifest == same.manifest
    for name, tensor in same.network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[name]), name


@families
def test_the_saved_model_gives_the_same_answers(family, lesson, tmp_path):
    model, teacher, batch = tiny.model(family), LiveTeacher(tiny.model(family, 1).network), tiny.batch(family)
    compress(model, plan(model, lesson, PARAMS), lesson, teacher, PARAMS.training)
    save(model, tmp_path / "model")
    with torch.no_grad():
        before, after = (logits_of(each.network.eval(), batch) for each in (model, load(tmp_path / "model")))
    assert torch.equal(before, after)


@families
def test_removed_is_bypassed(family):
    """Dropping a block equals running the network with the block's output replaced by its input."""
    model, batch = tiny.model(family), tiny.batch(family)
    with bypassed(blocks_of(model.network)[2]), torch.no_grad():
        expected = logits_of(model.network, batch)
    model.edit([KeepBlocks(kept=(0, 1, 3))])
    with torch.no_grad():
        assert torch.allclose(logits_of(model.network, batch), expected, atol=1e-5)


@pytest.fixture
def idle():
    """A model whose block 1 adds nothing to the residual stream."""
    model = tiny.model("llama")
    block = blocks_of(model.network)[1]
    for projection in (block.self_attn.o_proj, block.mlp.down_proj):
        torch.nn.init.zeros_(projection.weight)
    return model


def test_the_block_with_the_least_influence_goes(idle, lesson):
    recipe = plan(idle, lesson, PARAMS.model_copy(update={"blocks": 3}))
    assert [edit.kept for edit in recipe.edits] == [(0, 2, 3)]
    assert recipe.facts["block_scores"]["1"] == pytest.approx(0, abs=1e-6)


def test_the_blocks_go_without_which_the_loss_is_lowest(idle, lesson):
    recipe = plan(idle, lesson, PARAMS.model_copy(update={"criterion": "leave_one_out"}))
    scores = [recipe.facts["block_scores"][str(place)] for place in range(4)]
    assert recipe.edits[0].kept == tuple(sorted(sorted(range(4), key=lambda place: -scores[place])[:2]))
    idle.edit([KeepBlocks(kept=(0, 2, 3))])  # which changes no answer
    whole = plan(idle, lesson, PARAMS.model_copy(update={"criterion": "leave_one_out"}))
    assert scores[3] == pytest.approx(whole.facts["block_scores"]["2"], abs=1e-5)


def test_influence_is_of_real_tokens_alone():
    model, batch = tiny.model("bert"), tiny.batch("bert")
    with torch.no_grad():
        states = model.network(
            input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.inputs.get("token_type_ids"),
            output_hidden_states=True,
        ).hidden_states  # fmt: skip
    real = batch.mask.bool()
    expected = [
        1 - float(torch.cosine_similarity(before[real], after[real], dim=-1).mean())
        for before, after in pairwise(states)
    ]
    assert block_influence(model.network, blocks_of(model.network), [batch]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_padding_of_targets_does_not_count(family, tmp_path):
    model = translation.model_of(family)
    batch = translation.batch_of(model, tmp_path)
    width = max(batch.ids.shape[1], batch.inputs["decoder_input_ids"].shape[1])
    padded = replace(
        batch,
        inputs={
            name: F.pad(value, (0, width - value.shape[1]), value=0 if "mask" in name else model.pad_id)
            for name, value in batch.inputs.items()
        },
    )
    for stack in family_of(model.network).stacks:
        blocks = blocks_at(model.network, stack)
        found = [block_influence(model.network, blocks, [each]) for each in (batch, padded)]
        assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_positions():
    assert by_position("top", 2, 6) == (0, 1) and by_position("bottom", 2, 6) == (4, 5)
    assert by_position("alternate", 3, 6) == (0, 2, 5)
    assert by_position("bottom", 3, 6, keep_first=True) == (0, 4, 5) and by_position(
        "bottom", 1, 6, keep_first=True
    ) == (0,)
    assert highest([0.1, 0.9, 0.5, 0.5], 2, keep_first=False) == (1, 2)
    assert highest([0.1, 0.9, 0.5, 0.5], 2, keep_first=True) == (0, 1)


def test_all_blocks_are_the_model_itself_and_more_are_refused(lesson):
    model = tiny.model("bert")
    assert plan(model, lesson, PARAMS.model_copy(update={"blocks": 4})).edits == []
    with pytest.raises(InputError, match="5 blocks are to be kept; the model has 4"):
        plan(model, lesson, PARAMS.model_copy(update={"blocks": 5}))
