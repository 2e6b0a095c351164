"""Losses between inner signals, and the maps that say which blocks they compare."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lissom.data.batches import Batch, Members
from lissom.distill.features import attention_kl, hidden_cosine, hidden_mse, patience, score_mse
from lissom.distill.mapping import explicit, patient, uniform
from lissom.distill.offline_config import TinyBertDistillation
from lissom.distill.tinybert import Projections, layers_loss, soft_cross_entropy
from lissom.errors import InputError
from lissom.models.edits import AddExits
from lissom.models.exits import all_logits
from lissom.models.signals import (
    SignalSpec,
    check_signals,
    count_visible_pairs,
    expose_scores,
    signals_of,
    visible_pairs,
)
from lissom.models.students import spread_blocks
from lissom.models.together import Together
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny

families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)

torch.manual_seed(0)
HIDDEN, OTHER = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
SCORES, MORE = torch.randn(3, 2, 5, 5), torch.randn(3, 2, 5, 5)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def real_pairs(mask):
    return (mask[:, None, :, None] * mask[:, None, None, :]).bool()


LOSSES = {
    "hidden_mse": (hidden_mse, HIDDEN, OTHER),
    "hidden_cosine": (hidden_cosine, HIDDEN, OTHER),
    "score_mse": (lambda student, teacher, mask: score_mse(student, teacher, real_pairs(mask)), SCORES, MORE),
    "attention_kl": (attention_kl, SCORES, MORE),
}
losses = pytest.mark.parametrize("name", LOSSES)


@losses
def test_zero_at_equality_and_positive_elsewhere(name):
    loss, student, teacher = LOSSES[name]
    assert float(loss(teacher, teacher, MASK)) == pytest.approx(0, abs=1e-6)
    assert float(loss(student, teacher, MASK)) > 0.01


@losses
def test_padding_never_enters(name):
    loss, student, teacher = LOSSES[name]
    expected = float(loss(student, teacher, MASK))

    def junk(tensor):
        tensor = tensor.clone()
        if tensor.ndim == 3:
            tensor[~MASK.bool()] = 1e4
        else:
            tensor.masked_fill_(~MASK.bool()[:, None, :, None], 1e4)
            tensor.masked_fill_(~MASK.bool()[:, None, None, :], -math.inf)
        return tensor

    assert float(loss(junk(student), junk(teacher), MASK)) == pytest.approx(expected, rel=1e-5)
    grown = [torch.nn.functional.pad(t, (0, 0, 0, 3) if t.ndim == 3 else (0, 3, 0, 3)) for t in (student, teacher)]
    assert float(loss(*grown, torch.nn.functional.pad(MASK, (0, 3)))) == pytest.approx(expected, rel=1e-5)


@losses
def test_the_teacher_gets_no_gradient_and_the_student_a_finite_one(name):
    loss, student, teacher = LOSSES[name]
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    loss(student, teacher, MASK).backward()
    assert teacher.grad is None
    assert torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0


def test_means_are_those_of_the_formulas():
    real = MASK.bool()
    assert float(hidden_mse(HIDDEN, OTHER, MASK)) == pytest.approx(
        float((HIDDEN - OTHER)[real].square().mean()), rel=1e-5
    )
    pairs = real[:, :, None] & real[:, None, :]
    squares = (SCORES - MORE).square().permute(0, 2, 3, 1)[pairs]
    assert float(score_mse(SCORES, MORE, real_pairs(MASK))) == pytest.approx(float(squares.mean()), rel=1e-5)


def test_patience_ignores_lengths_and_is_bounded():
    student, teacher = torch.randn(6, 8), torch.randn(6, 8)
    value = float(patience(student, teacher))
    assert float(patience(student * torch.rand(6, 1).add(0.1), 7 * teacher)) == pytest.approx(value, rel=1e-4)
    assert 0 <= value <= 4
    assert float(patience(-teacher, teacher)) == pytest.approx(4, rel=1e-5)


def test_soft_cross_entropy_has_the_teacher_as_target():
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]).requires_grad_()
    soft_cross_entropy(student, teacher, 1.0).backward()
    assert torch.allclose(student.grad, student.detach().softmax(-1) - teacher.softmax(-1), atol=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(4, 12, (0, 3, 6, 9, 12)), (6, 12, (0, 2, 4, 6, 8, 10, 12)), (3, 12, (0, 4, 8, 12)), (2, 4, (0, 2, 4)), (6, 6, tuple(range(7)))],
)  # fmt: skip
def test_uniform_maps(student, teacher, expected):
    assert uniform(student, teacher) == expected
    # TinyBERT's released attention index is i N / M + N / M - 1, 0-based: one below the hidden entry.
    assert [target - 1 for target in expected[1:]] == [
        index * teacher // student + teacher // student - 1 for index in range(student)
    ]


def test_other_maps():
    assert patient(6, 12, "skip") == (2, 4, 6, 8, 10) and patient(3, 12, "skip") == (4, 8)
    assert patient(6, 12, "last") == (7, 8, 9, 10, 11) and patient(3, 12, "last") == (10, 11)
    assert spread_blocks(12) == (0, 2, 4, 7, 9, 11) and spread_blocks(6) == (0, 2, 5)
    assert explicit((2, 5), 2, 6) == (0, 2, 5)
    with pytest.raises(InputError, match=r"spread evenly.*1, 2, 3, 6"):
        uniform(4, 6)
    for wrong in ((1,), (5, 2), (0, 3), (2, 7)):
        with pytest.raises(InputError, match="layer_map"):
            explicit(wrong, 2, 6)


@families
def test_signals_are_those_of_transformers(family):
    model, batch = tiny.model(family), tiny.batch(family)
    exposed = family in tiny.able("scores")
    spec = SignalSpec(hidden=(0, 1, 3, 4), scores=(0, 3) if exposed else ())
    with torch.no_grad(), expose_scores(*([model.network] if exposed else [])):
        actual = signals_of(model.network, batch, spec)
    network = tiny.model(family).network
    network.set_attn_implementation("eager")
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
    with torch.no_grad():
        expected = network(**inputs, output_hidden_states=True, output_attentions=True)
    assert torch.allclose(actual.logits, expected.logits, atol=1e-5)
    for entry, hidden in actual.hidden.items():
        if entry < 4:  # a decoder's last entry is that behind its final norm
            assert torch.allclose(hidden, expected.hidden_states[entry], atol=1e-5)
    real = batch.mask.bool()
    members = Members(batch.indices.numpy(), batch.mask.sum(1).numpy())
    for block, scores in actual.scores.items():
        seen = visible_pairs(model.network, block, batch.mask)
        probabilities = scores.masked_fill(~seen, -1e9).softmax(-1)
        difference = (probabilities - expected.attentions[block])[real[:, None, :].expand(scores.shape[:3])]
        assert difference.abs().max() < 1e-5
        # What a query sees, padding aside, is what transformers gives a probability to.
        has_probability = (expected.attentions[block] > 0).any(1, keepdim=True) & real[:, None, :, None]
        assert torch.equal(seen, has_probability)
        assert count_visible_pairs(model.network, block)(members) == int(seen.sum())


@families
def test_a_pooled_state_knows_the_whole_text(family):
    """Every token changes it: that of [CLS] where attention sees both sides, of the last real token where it does not."""
    model, batch = tiny.model(family), tiny.batch(family)
    spec = SignalSpec(hidden=(3, 4), pooled=True)
    with torch.no_grad():
        expected = signals_of(model.network, batch, spec)
        for place in range(batch.ids.shape[1]):
            ids = batch.ids.clone()
            ids[:, place] = (ids[:, place] + 7) % (tiny.SIZE - 4) + 4
            actual = signals_of(model.network, batch.reading(torch.where(batch.mask.bool(), ids, batch.ids)), spec)
            for entry in spec.hidden:
                changed = (actual.hidden[entry] - expected.hidden[entry]).abs().amax(-1) > 1e-6
                assert torch.equal(changed, batch.mask[:, place].bool()), (entry, place)
        wide = signals_of(model.network, wider(batch, model.pad_id), spec)
    for entry in spec.hidden:
        assert torch.allclose(wide.hidden[entry], expected.hidden[entry], atol=1e-5)


def wider(batch, pad):
    """The same texts with three more columns of padding."""
    values = {"input_ids": pad, "attention_mask": 0, "token_type_ids": 0}
    inputs = {name: torch.nn.functional.pad(batch.inputs[name], (0, 3), value=value) for name, value in values.items()}
    return replace(batch, inputs=inputs)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_exits_see_the_whole_text(family):
    """Behind the first block already, where a causal network's first token has seen itself alone."""
    model, batch = tiny.model(family), tiny.batch(family)
    torch.manual_seed(0)
    model.edit([AddExits(size=8)])
    query = torch.zeros(1)

    def keep(module, inputs, output):
        nonlocal query
        query = output

    model.network.exits[1].query.register_forward_hook(keep)
    queries = []
    for ids in (batch.ids, torch.where(batch.mask.bool(), (batch.ids + 7) % 40 + 4, batch.ids)):
        ids = torch.cat([batch.ids[:, :1], ids[:, 1:]], dim=1)  # the first token stays
        with torch.no_grad():
            all_logits(model.network, batch.reading(ids))
        queries.append(query)
    assert ((queries[0] - queries[1]).abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("family", [name for name in tiny.FAMILY_NAMES if name not in tiny.able("scores")])
def test_scores_of_attention_that_cannot_be_exchanged_are_refused(family):
    with pytest.raises(InputError, match="scores cannot be captured"):
        check_signals(tiny.model(family).network, SignalSpec(scores=(0,)), "teacher")
    check_signals(tiny.model(family).network, SignalSpec(hidden=(1,)), "teacher")


@pytest.mark.parametrize("family", tiny.able("scores"))
def test_tinybert_compares_what_attention_sees_and_nothing_else(family):
    """Scores of padding, of later tokens and of those beyond a window are not used by the networks."""
    student, teacher, batch = tiny.model(family), tiny.model(family, seed=1), tiny.batch(family)
    spec = SignalSpec(hidden=(0, 1, 2, 3, 4), scores=(0, 1, 2, 3))
    params = TinyBertDistillation(method="tinybert", blocks=(0, 1, 2, 3))
    together = Together([student.network, Projections(student.network, teacher.network)])
    with torch.no_grad(), expose_scores(student.network, teacher.network):
        signals = LiveTeacher(teacher.network, spec).signals(batch)

        def loss(change) -> float:
            scores = {block: change(scores, block) for block, scores in signals.scores.items()}
            fixed = SimpleNamespace(signals=lambda _: replace(signals, scores=scores))
            return float(layers_loss(fixed, (0, 1, 2, 3, 4), params, student.network)(together, batch))

        def unseen(scores, block):
            return scores.masked_fill(~visible_pairs(teacher.network, block, batch.mask), 1e4)

        expected = loss(lambda scores, _: scores)
        assert loss(unseen) == pytest.approx(expected, rel=1e-6)
        for block in range(4):  # every pair that is seen counts
            pair = visible_pairs(teacher.network, block, batch.mask).expand_as(signals.scores[block]).nonzero()[-1]

            def one(scores, number, pair=tuple(pair), block=block):
                scores = scores.clone()
                scores[pair] += 100 * (number == block)
                return scores

            assert loss(one) > expected * 1.001


def test_exposing_scores_ends_with_the_context():
    model = tiny.model("bert")
    before = model.network.config._attn_implementation
    with expose_scores(model.network):
        assert model.network.config._attn_implementation != before
    assert model.network.config._attn_implementation == before


def longer(batch: Batch, pad: int, by: int = 4) -> Batch:
    zeros = torch.zeros(len(batch), by, dtype=torch.int64)
    more = {"input_ids": zeros + pad, "attention_mask": zeros, "token_type_ids": zeros}
    return replace(batch, inputs={name: torch.cat([batch.inputs[name], more[name]], 1) for name in more})
