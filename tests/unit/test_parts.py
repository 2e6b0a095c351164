"""Parts of a batch: everybody once, and weights with which means add up."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from lissom.data.batches import Members
from lissom.distill.language import Masking, language_loss
from lissom.distill.offline_config import LanguageModelParams, TinyBertDistillation
from lissom.distill.tinybert import Projections, layers_loss
from lissom.models.signals import SignalSpec, expose_scores
from lissom.models.together import Together
from lissom.parallel.parts import split_batch
from lissom.training.objective import examples as examples_of
from lissom.training.objective import tokens
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.test_loop import examples

DATA = examples(30)


@given(st.integers(1, 30), st.integers(1, 8))
def test_every_example_is_in_one_part_and_weights_add_up(size, count):
    members = np.random.default_rng(size).permutation(30)[:size]
    parts = split_batch(DATA, members, 0, count, range(count))
    counted = [int(index) for part in parts if part.weight for index in part.batch.indices]
    assert sorted(counted) == sorted(members)
    assert len(parts) == count and sum(part.weight for part in parts) == pytest.approx(1)
    sizes = [len(part.batch.indices) for part in parts if part.weight]
    assert max(sizes) - min(sizes) <= 1
    if size == 1 or count == 1:
        return
    for count_items in (examples_of, tokens, lambda members: float((members.lengths**2).sum())):
        whole = Members(members, DATA.lengths[members])
        for part in (part for part in parts if part.weight):
            own = Members(part.batch.indices.numpy(), part.batch.mask.sum(1).numpy())
            share = part.weight * part.batch.share.of(count_items)
            assert share == pytest.approx(count_items(own) / count_items(whole))


def test_a_batch_in_one_part_is_left_alone():
    (part,) = split_batch(DATA, np.arange(8), 0, 1, [0])
    assert part.weight == 1.0 and part.batch.share is None


def test_nothing_to_count_weighs_nothing():
    part = split_batch(DATA, np.arange(8), 0, 2, [0])[0]
    assert part.batch.share.of(lambda _: 0.0) == 0.0


def tinybert(family):
    student, teacher = tiny.model(family), tiny.model(family, seed=1)
    live = LiveTeacher(teacher.network, SignalSpec(hidden=(0, 1, 2, 3, 4), scores=(0, 1, 2, 3)))
    params = TinyBertDistillation(method="tinybert", blocks=(0, 1, 2, 3))
    together = Together([student.network, Projections(student.network, teacher.network)])
    return layers_loss(live, (0, 1, 2, 3, 4), params, student.network), together, (student.network, teacher.network)


def language(family, auto_class):
    network, teacher = (auto_class.from_config(tiny.CONFIGS[family]()).eval() for _ in range(2))
    model, params = tiny.model(family), LanguageModelParams(mask_probability=0.3)
    model.tokenizer_config["mask_token"] = "[UNK]"
    masking = Masking(model, network, DATA, params) if family == "bert" else None
    return language_loss(teacher, masking, params), network, ()


OBJECTIVES = {
    **{f"tinybert, {family}": partial(tinybert, family) for family in tiny.able("scores")},
    "masked language": partial(language, "bert", AutoModelForMaskedLM),
    "causal language": partial(language, "llama", AutoModelForCausalLM),
}


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_means_of_parts_add_up_to_the_mean_of_the_batch(name, count):
    """A mean over tokens, pairs that attention sees, or masked tokens: the parts have different numbers of them."""
    loss, network, exposed = OBJECTIVES[name]()
    members = np.random.default_rng(0).permutation(30)[:13]
    (whole,) = split_batch(DATA, members, 0, 1, [0])
    with torch.no_grad(), expose_scores(*exposed):
        expected = float(loss(network, whole.batch))
        parts = [
            part.weight * float(loss(network, part.batch))
            for part in split_batch(DATA, members, 0, count, range(count))
        ]
    assert len(set(parts)) == count and sum(parts) == pytest.approx(expected, rel=1e-5)


def test_sequences_are_padded_to_a_multiple():
    (part,) = split_batch(DATA, np.arange(8), 0, 1, [0], multiple=4)
    assert part.batch.ids.shape[1] % 4 == 0
