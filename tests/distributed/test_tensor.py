"""Tensor parallelism: pieces are slices, two all-reduces forward and two backward in a block, a bias is added once."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, loss_parallel, parallelize_module

from lissom.attention.config import BlockLocal, LongNet
from lissom.models.compressed import logits_of
from lissom.models.edits import UseAttention
from lissom.models.sites import attention_sites, blocks_of
from lissom.parallel.gradients import clip, full_tensor, local_tensor, reduce_partial
from lissom.parallel.tensor import shard_network
from tests.distributed.processes import spread
from tests.distributed.training import quiet
from tests.unit import tiny

ALL_REDUCE = torch.ops.c10d_functional.all_reduce


def cut_and_whole(world, family, sequence=False, patterns=()):
    model = tiny.model(family)
    if patterns:
        model.edit([UseAttention(patterns=patterns)])
    network = quiet(model).network.train()
    cut = copy.deepcopy(network)
    assert shard_network(cut, world.layout().mesh["tensor"], sequence=sequence) == []
    return network, cut


def gradients_of_pieces(world, family, size, sequence, patterns=()):
    network, cut = cut_and_whole(world, family, sequence, patterns)
    batch = tiny.batch(family, length=8)
    losses = []
    for item in (network, cut):
        loss = tiny.TASK.loss(logits_of(item, batch), batch.targets)
        loss.backward()
        losses.append(float(loss))
    reduce_partial(cut.parameters())
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    spread_out = 0
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            continue
        piece = cut.get_parameter(name)
        if isinstance(piece, DTensor) and isinstance(piece.placements[0], Shard):
            spread_out += 1
            dimension = piece.placements[0].dim
            mine = parameter.grad.chunk(size, dim=dimension)[world.rank]
            torch.testing.assert_close(local_tensor(piece.grad), mine, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(full_tensor(piece.grad), parameter.grad, atol=1e-6, rtol=1e-5, msg=name)
        torch.testing.assert_close(full_tensor(piece), parameter)
    copies = [p.grad for p in cut.parameters() if p.grad is not None and not isinstance(p, DTensor)]
    for gradient in copies:  # what is whole everywhere has the same gradient everywhere
        first = gradient.clone()
        dist.broadcast(first, 0)
        torch.testing.assert_close(gradient, first, atol=1e-9, rtol=0)
    return spread_out


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_pieces_of_weights_have_slices_of_the_gradients(family, size):
    actual = spread(gradients_of_pieces, family, size, False, tensor=size)
    assert actual[0] >= 4 * 9  # q, k, v, FFN in with biases; both outputs without; in four blocks


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "modernbert", "qwen3"])
def test_a_split_sequence_changes_nothing(family):
    spread(gradients_of_pieces, family, 2, True, tensor=2, sequence=True)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_heads_on_other_processes_keep_their_patterns(family):
    longnet = LongNet(pattern="longnet", segments=(3, 6), dilations=(1, 2))
    local = BlockLocal(pattern="block_local", size=3, heads=(3,))
    spread(gradients_of_pieces, family, 2, False, (longnet, local), tensor=2)


def test_heads_that_share_keys_are_cut_with_them():
    assert spread(gradients_of_pieces, "llama", 2, False, tensor=2)[0] >= 4 * 7


def count_messages(world, family):
    _, cut = cut_and_whole(world, family)
    batch = tiny.batch(family, length=8)
    block = blocks_of(cut)[1]
    hidden = torch.randn(2, 8, 32, dtype=torch.float64, requires_grad=True)
    more = {}
    if family == "llama":
        more["position_embeddings"] = cut.model.rotary_emb(hidden, position_ids=torch.arange(8)[None])
    with CommDebugMode() as forward:
        output = block(hidden, **more)
        output = output[0] if isinstance(output, tuple) else output
    with CommDebugMode() as backward:
        output.square().sum().backward()
    del batch
    return [counted.get_comm_counts().get(ALL_REDUCE, 0) for counted in (forward, backward)], forward.get_total_counts()


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "roberta", "llama"])
def test_two_all_reduces_forward_and_two_backward(family):
    """One f and one g for attention, one each for the FFN: gate and up, and q, k and v, share theirs."""
    counts, total = spread(count_messages, family, tensor=2)[0]
    assert counts == [2, 2] and total == 2


def f_and_g(world):
    """f: identity forward, sum backward; g: sum forward, identity backward; the bias behind g counts once."""
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)).double()
    cut = copy.deepcopy(pair)
    mesh = world.layout().mesh["tensor"]
    parallelize_module(cut, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    inputs = torch.randn(5, 6, dtype=torch.float64)
    ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    actual, expected = cut(ours), pair(theirs)
    torch.testing.assert_close(actual, expected)
    with torch.no_grad():
        pair[2].bias += 1
        cut[2].bias.to_local().add_(1)
        torch.testing.assert_close(
            cut(inputs) - pair(inputs), torch.zeros(5, 6, dtype=torch.float64), atol=1e-12, rtol=0
        )
    actual.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_f_and_g_are_conjugate_and_a_bias_is_added_once():
    spread(f_and_g, tensor=2)


def vocabulary_parallel(world):
    torch.manual_seed(0)
    head = nn.Linear(8, 13, bias=False).double()  # 13 words: the last piece is smaller
    cut = copy.deepcopy(head)
    mesh = world.layout().mesh["tensor"]
    cut = parallelize_module(cut, mesh, ColwiseParallel(output_layouts=Shard(-1), use_local_output=False))
    hidden = torch.randn(10, 8, dtype=torch.float64)
    labels = torch.tensor([0, 12, 6, 7, -100, 3, 9, 1, -100, 11])
    expected = nn.functional.cross_entropy(head(hidden), labels)
    expected.backward()
    with loss_parallel(), CommDebugMode() as counted:
        actual = nn.functional.cross_entropy(cut(hidden), labels)
        actual.backward()
    torch.testing.assert_close(full_tensor(actual), expected)
    torch.testing.assert_close(full_tensor(cut.weight.grad), head.weight.grad)
    return counted.get_total_counts()


def test_the_cross_entropy_of_a_cut_vocabulary_is_the_whole_one():
    assert (
        spread(vocabulary_parallel, tensor=2)[0] <= 5
    )  # maximum, sum and target: numbers per token, never the vocabulary


def norm_of_pieces(world):
    network, cut = cut_and_whole(world, "bert")
    batch = tiny.batch("bert", length=8)
    for item in (network, cut):
        (tiny.TASK.loss(logits_of(item, batch), batch.targets) * 100).backward()
    clip(network.parameters(), 0.5)
    clip(cut.parameters(), 0.5)
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(full_tensor(cut.get_parameter(name).grad), parameter.grad, atol=1e-7, rtol=1e-5)


def test_clipping_counts_pieces_once_and_copies_once():
    spread(norm_of_pieces, tensor=2)


def masks(world, family):
    """With dropout: what is copied stays the same on all processes, and heads get masks of their own."""
    network = tiny.model(family).network.train()
    shard_network(network, world.layout().mesh["tensor"])
    drawn = []
    attention = network.get_submodule(attention_sites(network)[0].module)
    attention.register_forward_pre_hook(lambda *_: drawn.append(float(torch.rand(()))))
    torch.manual_seed(1)
    batch = tiny.batch(family, length=8)
    logits = logits_of(network, batch)
    return logits.detach().numpy(), drawn[0]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_masks_are_shared_outside_of_attention_and_not_inside(family):
    (item, inside_one), (other, inside_other) = spread(masks, family, tensor=2)
    assert (item == other).all()
    assert inside_one != inside_other


def ranks_of_the_table(world):
    network = tiny.model("bert").network
    shard_network(network, world.layout().mesh["tensor"])
    table = network.bert.embeddings.word_embeddings
    ids = torch.arange(tiny.SIZE)[None]
    assert isinstance(table.weight, DTensor) and not isinstance(table.weight.placements[0], Replicate)
    torch.testing.assert_close(table(ids)[0], full_tensor(table.weight))


def test_every_process_owns_some_rows_of_the_vocabulary():
    spread(ranks_of_the_table, tensor=2)
