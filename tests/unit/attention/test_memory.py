"""No pattern allocates a tensor of all pairs, forwards or backwards; what is recomputed gives the same gradients."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lissom.attention import run
from lissom.attention.config import BlockLocal, BlockStrided, FixedRadius, LongNet, SparseTransformer
from lissom.attention.dense import AttentionInputs
from lissom.attention.run import attention
from lissom.training.config import TrainingParams
from lissom.training.preparing import training_mode
from tests.unit import tiny
from tests.unit.attention.test_networks import PATTERNS as NETWORK_PATTERNS
from tests.unit.attention.test_networks import model_with

HEADS, WIDTH, LENGTH = 2, 8, 2048
PATTERNS = {
    "block_local": BlockLocal(pattern="block_local", size=16),
    "fixed_radius": FixedRadius(pattern="fixed_radius", radius=16),
    "fixed_radius with global tokens": FixedRadius(pattern="fixed_radius", radius=16, global_tokens=1),
    "longnet": LongNet(pattern="longnet", segments=(16, 64, 256), dilations=(1, 4, 16)),
    "block_strided": BlockStrided(pattern="block_strided", stride=64),
    "sparse_transformer, strided": SparseTransformer(pattern="sparse_transformer", stride=64),
    "sparse_transformer, fixed": SparseTransformer(pattern="sparse_transformer", form="fixed", stride=64, summary=4),
}

LINEAR = ("block_local", "fixed_radius", "longnet")
"""The others have n^2 / stride pairs."""


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def largest(length, patterns, *, causal, padded):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, HEADS, length, WIDTH, generator=generator, requires_grad=True) for _ in range(3)]
    real = torch.arange(length)[None] != length // 3 if padded else None  # padding at the end would be forgotten
    inputs = AttentionInputs(
        *tensors, scale=WIDTH**-0.5, real=real, causal=causal, heads=tuple(range(HEADS)), all_heads=HEADS
    )
    with Largest() as seen:
        attention(inputs, patterns).sum().backward()
    return seen.elements


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("name", PATTERNS)
def test_the_largest_tensor_grows_with_the_pairs(name, causal, padded):
    shorter, longer = (
        largest(length, [PATTERNS[name]], causal=causal, padded=padded) for length in (LENGTH, 2 * LENGTH)
    )
    of_all_pairs = HEADS * LENGTH**2
    assert shorter < of_all_pairs / 8
    assert longer <= (2 if PATTERNS[name].pattern in LINEAR else 4) * shorter


def test_dense_attention_with_a_bias_would_be_noticed():
    assert largest(LENGTH, [], causal=True, padded=True) >= LENGTH**2


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("name", NETWORK_PATTERNS)
def test_recomputed_blocks_give_the_same_gradients(family, name, monkeypatch):
    """Also where weights are dropped, which are drawn again in the second pass."""
    monkeypatch.setattr(run, "DENSE_BELOW", 0)
    gradients = []
    for recomputed in (False, True):
        model = model_with(family, NETWORK_PATTERNS[name], attention_dropout=0.1, attention_probs_dropout_prob=0.1)
        params = TrainingParams(gradient_checkpointing=recomputed, freeze_word_table=False)
        with training_mode(model.network, params):
            torch.manual_seed(5)
            tiny.LOSS(model.network, tiny.batch(family)).backward()
        gradients.append({key: p.grad for key, p in model.network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, atol=1e-6, rtol=1e-5)
