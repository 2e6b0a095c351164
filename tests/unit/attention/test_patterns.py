"""Every pattern equals dense attention with its oracle, forwards and backwards, whatever the length and the padding."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from lissom.attention import fixed_radius, run
from lissom.attention.config import BlockLocal, BlockStrided, FixedRadius, LongNet, SparseTransformer
from lissom.attention.dense import AttentionInputs
from lissom.attention.run import attention, pairs
from lissom.models.patterned import inputs_for, patterns_of, set_patterns

HEADS = 4


def sparse(form, part="both", **values):
    return SparseTransformer(pattern="sparse_transformer", form=form, part=part, **values)


PATTERNS = {
    "block_local": BlockLocal(pattern="block_local", size=5),
    "block_local of 1": BlockLocal(pattern="block_local", size=1),
    "block_local of all": BlockLocal(pattern="block_local", size=500),
    "fixed_radius": FixedRadius(pattern="fixed_radius", radius=3),
    "fixed_radius of 0": FixedRadius(pattern="fixed_radius", radius=0),
    "fixed_radius beyond a group": FixedRadius(pattern="fixed_radius", radius=40),
    "fixed_radius of all": FixedRadius(pattern="fixed_radius", radius=500),
    "block_strided": BlockStrided(pattern="block_strided", stride=4),
    "block_strided of 1": BlockStrided(pattern="block_strided", stride=1),
    "block_strided of all": BlockStrided(pattern="block_strided", stride=500),
    **{
        f"sparse_transformer {form} {part}": sparse(form, part, stride=6, summary=2)
        for form, part in itertools.product(("strided", "fixed"), ("both", "local", "distant"))
    },
    "sparse_transformer all summary": sparse("fixed", stride=3, summary=3),
    "longnet": LongNet(pattern="longnet", segments=(4, 8, 16), dilations=(1, 2, 4)),
    "longnet of one branch": LongNet(pattern="longnet", segments=(6,), dilations=(1,)),
    "longnet with rests": LongNet(pattern="longnet", segments=(5, 7, 100), dilations=(1, 3, 5)),
    "longnet in groups": LongNet(pattern="longnet", segments=(4, 8), dilations=(1, 2), offsets="contiguous"),
    "global tokens": FixedRadius(pattern="fixed_radius", radius=2, global_tokens=1),
    "global tokens of blocks": BlockLocal(pattern="block_local", size=4, global_tokens=6),
    "global tokens of longnet": LongNet(pattern="longnet", segments=(4, 8), dilations=(1, 2), global_tokens=2),
    "global tokens, strided": sparse("strided", stride=5, global_tokens=3),
}
"""Small enough that 33 tokens have many groups and a rest."""
LENGTHS = (1, 7, 33, 101)


@pytest.fixture(autouse=True)
def efficient(monkeypatch):
    """Take the efficient form for any length, with several groups of queries."""
    monkeypatch.setattr(run, "DENSE_BELOW", 0)
    monkeypatch.setattr(fixed_radius, "QUERIES", 8)
    monkeypatch.setattr(fixed_radius, "MORE_QUERIES", 8)


def counts(patterns, length, heads, all_heads, *, causal):
    return run.counts(patterns, torch.arange(length), length, heads, all_heads, causal=causal)


def inputs_of(length, *, batch=2, width=8, value_width=None, real=None, causal=False, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    widths = (width, width, value_width or width)
    tensors = [torch.randn(batch, HEADS, length, size, generator=generator).to(dtype) for size in widths]
    for tensor in tensors:
        tensor.requires_grad_()
    return AttentionInputs(
        *tensors, scale=width**-0.5, real=real, causal=causal, heads=tuple(range(HEADS)), all_heads=HEADS
    )


def ragged(length, batch=2):
    real = torch.ones(batch, length, dtype=torch.bool)
    real[1, max(1, length // 2) :] = False
    return real


def scattered(length, batch=2):
    """Padding before and within a text."""
    real = torch.rand(batch, length, generator=torch.Generator().manual_seed(3)) > 0.3
    real[:, length // 2] = True
    return real


def oracle(inputs, patterns):
    """Dense attention with the logarithm of the counts added to the scores."""
    count = counts(patterns, inputs.length, inputs.heads, inputs.all_heads, causal=inputs.causal)
    allowed = count if inputs.real is None else count * inputs.real[:, None, None]
    scores = (inputs.query @ inputs.key.transpose(-1, -2)).float() * inputs.scale
    if inputs.softcap is not None:
        scores = inputs.softcap * (scores / inputs.softcap).tanh()
    seen = (allowed > 0).any(-1, keepdim=True)
    scores = torch.where(seen, scores + allowed.log(), 0.0)
    output = scores.softmax(-1).to(inputs.value.dtype) @ inputs.value * seen
    return output if inputs.real is None else output * inputs.real[:, None, :, None]


def gradients(output, inputs):
    tensors = (inputs.query, inputs.key, inputs.value)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).bfloat16().to(output.dtype)
    # A sequence of one token has no gradient of its scores.
    found = torch.autograd.grad((output * weights).sum(), tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


def check_equal(inputs, patterns, tolerance=1e-5):
    """The oracle computes in float32, whatever the inputs."""
    tensors = (inputs.query, inputs.key, inputs.value)
    exact = replace(
        inputs,
        **dict(zip(("query", "key", "value"), (t.detach().float().requires_grad_() for t in tensors), strict=True)),
    )
    ours, theirs = attention(inputs, patterns), oracle(exact, patterns)
    torch.testing.assert_close(ours.float(), theirs, atol=tolerance, rtol=tolerance)
    for one, other in zip(gradients(ours, inputs), gradients(theirs, exact), strict=True):
        torch.testing.assert_close(one.float(), other, atol=4 * tolerance, rtol=4 * tolerance)


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("padding", [None, ragged, scattered], ids=["whole", "ragged", "scattered"])
@pytest.mark.parametrize("name", PATTERNS)
def test_equals_dense_attention_with_the_oracle(name, padding, causal):
    for length in LENGTHS:
        real = None if padding is None else padding(length)
        check_equal(inputs_of(length, real=real, causal=causal), [PATTERNS[name]])


@pytest.mark.parametrize("name", PATTERNS)
def test_values_of_another_width_and_half_precision(name):
    check_equal(inputs_of(33, value_width=5), [PATTERNS[name]])
    for causal, real in itertools.product((False, True), (None, ragged(33), scattered(33))):
        half = inputs_of(33, dtype=torch.bfloat16, causal=causal, real=real)
        check_equal(half, [PATTERNS[name]], tolerance=1e-2)


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("name", PATTERNS)
def test_heads_that_share_keys_and_values(name, causal):
    """Of four heads of queries, two and two read the same keys; the oracle never repeats them."""
    whole, real = inputs_of(33, real=scattered(33)), scattered(33)
    query, key, value = whole.query, whole.key[:, :2], whole.value[:, :2]
    module = torch.nn.Module()
    module.is_causal = causal
    set_patterns(module, [PATTERNS[name]], HEADS)
    ours = attention(inputs_for(module, query, key, value, real.long(), scaling=None), patterns_of(module))
    count = counts([PATTERNS[name]], 33, whole.heads, HEADS, causal=causal) * real[:, None, None]
    allowed = count.unflatten(1, (2, 2))
    scores = torch.einsum("bgqnd,bgmd->bgqnm", query.unflatten(1, (2, 2)), key) * query.shape[-1] ** -0.5
    seen = (allowed > 0).any(-1, keepdim=True)
    weights = torch.where(seen, scores + allowed.log(), 0.0).softmax(-1) * seen
    theirs = torch.einsum("bgqnm,bgmd->bgqnd", weights, value).flatten(1, 2) * real[:, None, :, None]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients(ours, whole), gradients(theirs, whole), strict=True):
        torch.testing.assert_close(one, other, atol=4e-5, rtol=4e-5)


@pytest.mark.parametrize("name", PATTERNS)
def test_soft_caps(name):
    inputs = inputs_of(33, real=ragged(33))
    capped = AttentionInputs(**{**vars(inputs), "softcap": 1.5})
    check_equal(capped, [PATTERNS[name]])


@pytest.mark.parametrize("name", PATTERNS)
def test_short_inputs_take_the_dense_path_with_the_same_result(name, monkeypatch):
    for causal, real in itertools.product((False, True), (None, scattered(33))):
        inputs = inputs_of(33, causal=causal, real=real)
        efficient = attention(inputs, [PATTERNS[name]])
        monkeypatch.setattr(run, "DENSE_BELOW", 64)
        torch.testing.assert_close(attention(inputs, [PATTERNS[name]]), efficient, atol=1e-5, rtol=1e-5)
        monkeypatch.setattr(run, "DENSE_BELOW", 0)


@pytest.mark.parametrize("name", PATTERNS)
def test_large_scores_do_not_overflow(name):
    inputs = inputs_of(33)
    large = AttentionInputs(**{**vars(inputs), "scale": 1e3})
    output = attention(large, [PATTERNS[name]])
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(output, large))


@pytest.mark.parametrize("name", PATTERNS)
def test_a_text_that_is_all_padding_gives_zeros(name):
    real = ragged(33)
    real[1] = False
    inputs = inputs_of(33, real=real)
    output = attention(inputs, [PATTERNS[name]])
    assert (output[1] == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients(output, inputs))


@pytest.mark.parametrize("name", PATTERNS)
def test_padding_does_not_change_an_answer(name):
    real = ragged(33)
    inputs = inputs_of(33, real=real)
    alone = AttentionInputs(
        *(tensor[1:, :, :16] for tensor in (inputs.query, inputs.key, inputs.value)),
        scale=inputs.scale, heads=inputs.heads, all_heads=HEADS,
    )  # fmt: skip
    pattern = PATTERNS[name]
    if isinstance(pattern, LongNet):  # segments of a whole text are those of its own length
        pattern = pattern.model_copy(update={"segments": tuple(min(size, 16) for size in pattern.segments)})
    torch.testing.assert_close(
        attention(inputs, [pattern])[1, :, :16], attention(alone, [pattern])[0], atol=1e-5, rtol=0
    )


def test_dropout_keeps_the_mean_and_drops_weights():
    inputs = inputs_of(64, batch=1)
    for name in ("fixed_radius", "sparse_transformer fixed both", "longnet", "global tokens"):
        pattern = PATTERNS[name]
        dropping = AttentionInputs(**{**vars(inputs), "dropout": 0.5})
        torch.manual_seed(0)
        with torch.no_grad():
            whole = attention(inputs, [pattern])
            mean = torch.stack([attention(dropping, [pattern]) for _ in range(200)]).mean(0)
        assert (mean - whole).abs().mean() < 0.15, name
        assert not torch.equal(attention(dropping, [pattern]), attention(dropping, [pattern])), name


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
def test_the_cost_model_counts_the_pairs_of_the_oracle(name, causal):
    pattern = PATTERNS[name].model_copy(update={"global_tokens": 0})
    for length, head in itertools.product(LENGTHS, range(HEADS)):
        count = counts([pattern], length, [head], HEADS, causal=causal)
        assert pairs(pattern, length, causal=causal, head=head, all_heads=HEADS) == int(count.sum())


def test_fixed_radius_has_the_pairs_of_the_formula():
    for length, radius in ((50, 3), (128, 127), (9, 0)):
        expected = length * (2 * radius + 1) - radius * (radius + 1)
        assert pairs(FixedRadius(pattern="fixed_radius", radius=radius), length, causal=False) == expected


def test_limits_are_full_attention_or_the_values_themselves():
    inputs = inputs_of(33)
    full = functional.scaled_dot_product_attention(inputs.query, inputs.key, inputs.value)
    for name in ("block_local of all", "fixed_radius of all", "block_strided of 1"):
        torch.testing.assert_close(attention(inputs, [PATTERNS[name]]), full, atol=1e-5, rtol=1e-5)
    whole = LongNet(pattern="longnet", segments=(64,), dilations=(1,))
    torch.testing.assert_close(attention(inputs, [whole]), full, atol=1e-5, rtol=1e-5)
    for name in ("block_local of 1", "fixed_radius of 0", "block_strided of all"):
        torch.testing.assert_close(attention(inputs, [PATTERNS[name]]), inputs.value, atol=1e-6, rtol=1e-6)


def test_strided_is_block_local_in_another_order():
    stride, rows = 4, 6
    inputs = inputs_of(stride * rows)
    order = torch.arange(stride * rows).reshape(rows, stride).T.flatten()  # (i mod stride) * rows + i // stride
    there = AttentionInputs(
        *(tensor[:, :, order] for tensor in (inputs.query, inputs.key, inputs.value)),
        scale=inputs.scale, heads=inputs.heads, all_heads=HEADS,
    )  # fmt: skip
    blocks = attention(there, [BlockLocal(pattern="block_local", size=rows)])
    strided = attention(inputs, [BlockStrided(pattern="block_strided", stride=stride)])
    torch.testing.assert_close(strided[:, :, order], blocks, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", ["strided", "fixed"])
def test_two_steps_of_the_sparse_transformer_reach_everything_before(form):
    seen = (counts([sparse(form, stride=6, summary=2)], 36, [0], 1, causal=True)[0] > 0).double()
    # Of `fixed`, a token reaches the others of an earlier block through the tokens that summarise it.
    assert torch.equal(seen @ seen > 0, torch.ones(36, 36, dtype=torch.bool).tril())
    for part in ("local", "distant"):
        alone = (counts([sparse(form, part, stride=6, summary=2)], 36, [0], 1, causal=True)[0] > 0).double()
        assert (alone @ alone == 0)[seen @ seen > 0].any(), "one factor does not suffice"


def test_heads_of_a_dilation_cover_all_tokens_together():
    for dilation in (2, 3, 4):
        branch = LongNet(pattern="longnet", segments=(1, 12), dilations=(1, dilation))
        heads = range(dilation)
        alone = counts([branch], 24, heads, dilation, causal=False) - torch.eye(24, dtype=torch.long)
        covered = torch.stack([alone[head].diagonal() > 0 for head in heads])
        assert covered.any(0).all()
        assert (covered.float().mean(1) == 1 / dilation).all()


def test_constant_weights_change_gradients_alone():
    pattern = PATTERNS["longnet"]
    inputs = inputs_of(33)
    ours = attention(inputs, [pattern])
    constant = attention(inputs, [pattern.model_copy(update={"detach_weights": True})])
    torch.testing.assert_close(ours, constant)
    (query, key, value), (other_query, other_key, other_value) = gradients(ours, inputs), gradients(constant, inputs)
    torch.testing.assert_close(value, other_value, atol=1e-5, rtol=1e-5)
    assert (query - other_query).abs().max() > 1e-3 and (key - other_key).abs().max() > 1e-3


def test_heads_with_patterns_of_their_own():
    local = BlockLocal(pattern="block_local", size=4, heads=(0, 2))
    wide = LongNet(pattern="longnet", segments=(4, 8), dilations=(1, 2), heads=(3,))
    check_equal(inputs_of(33, real=scattered(33)), [local, wide])


@pytest.mark.parametrize("name", [name for name, pattern in PATTERNS.items() if getattr(pattern, "radius", 0) < 32])
@pytest.mark.parametrize("turns", [2, 3, 100])
def test_heads_in_turn_give_what_all_at_once_give(name, turns, monkeypatch):
    inputs = inputs_of(33, real=ragged(33))
    monkeypatch.setattr(run, "_growth", lambda pattern: turns)
    monkeypatch.setattr(run, "KEPT_BY_GLIBC", inputs.query.numel() * inputs.query.element_size())
    calls = []
    part = run.attend if PATTERNS[name].global_tokens else run._part
    monkeypatch.setattr(run, part.__name__, lambda *args, **kwargs: calls.append(1) or part(*args, **kwargs))
    check_equal(inputs, [PATTERNS[name]])
    assert len(calls) >= min(turns, HEADS)


def test_numbers_of_heads_that_were_pruned_or_sharded():
    pattern = PATTERNS["longnet with rests"]
    whole = inputs_of(33)
    kept = [1, 3]
    some = AttentionInputs(
        *(tensor[:, kept] for tensor in (whole.query, whole.key, whole.value)),
        scale=whole.scale, heads=tuple(kept), all_heads=HEADS,
    )  # fmt: skip
    torch.testing.assert_close(attention(some, [pattern]), attention(whole, [pattern])[:, kept], atol=1e-6, rtol=1e-6)


def test_zeros_instead_of_no_weight_would_be_noticed():
    """The oracle tells apart weight 0 and score 0, which is weight e^0."""
    inputs, pattern = inputs_of(33), PATTERNS["block_local"]
    seen = counts([pattern], 33, inputs.heads, HEADS, causal=False) > 0
    scores = inputs.query @ inputs.key.transpose(-1, -2) * inputs.scale
    wrong = torch.where(seen, scores, 0.0).softmax(-1) @ inputs.value
    assert (wrong - attention(inputs, [pattern])).abs().max() > 0.1
