"""Sparse tensors in a file of weights: read as they were written, and refused if they are damaged."""

import pytest
import torch

from lissom.errors import ModelFormatError
from lissom.models.compact_file import decoded, encoded


@pytest.mark.parametrize("shape", [(3, 5), (8, 8), (1, 1)])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
def test_sparse_tensors_are_read_as_they_were(shape, sparsity):
    tensor = torch.randn(shape) * (torch.rand(shape) >= sparsity)
    state = {"w": tensor, "bias": torch.zeros(40)}
    written = encoded(state)
    assert sum(t.numel() * t.element_size() for t in written.values()) <= tensor.numel() * 4 + 160
    assert torch.equal(decoded(written, {"w": tensor.shape})["w"], tensor)


@pytest.mark.parametrize("damage", ["bits", "values", "shape", "type"])
def test_damaged_sparse_tensors_are_refused(damage):
    written = encoded({"w": torch.eye(16)})
    shape = torch.Size([16, 16])
    if damage == "bits":
        written["w.bits"][0] ^= 2
    if damage == "values":
        written["w.values"] = written["w.values"][:-1]
    if damage == "shape":
        shape = torch.Size([16, 17])
    if damage == "type":
        written["w.bits"] = written["w.bits"].view(torch.int8)
    with pytest.raises(ModelFormatError):
        decoded(written, {"w": shape})
