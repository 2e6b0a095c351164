"""Hidden channels: every tensor is found, removal is what it is said to be, and everything that follows works."""

import copy

import pytest
import torch
from torch import nn

import lissom
from lissom.errors import InputError
from lissom.export.onnx import export_onnx
from lissom.models.channels import channel_axes, root_mean_square_norms
from lissom.models.compressed import logits_of
from lissom.models.edits import AddExits, FactorizeWordTable, KeepBlocks, KeepChannels, KeepHeads, LowRank
from lissom.serving.classifier import OnnxClassifier
from tests.unit import test_translation as translation
from tests.unit import tiny

ALL = [*tiny.FAMILY_NAMES, *translation.FAMILIES]
families = pytest.mark.parametrize("family", ALL)
KEPT = tuple(sorted({*range(0, 32, 3), 1, 16, 31, 7, 20}))


def model_of(family):
    return translation.model_of(family) if family in translation.FAMILIES else tiny.model(family)


def logits(model, folder, family):
    batch = translation.batch_of(model, folder) if family in translation.FAMILIES else tiny.batch(family)
    with torch.no_grad():
        return logits_of(model.network.eval(), batch)


def parameters(network):
    """Parameters with channels, each once, with their axes."""
    axes = channel_axes(network)
    return [(parameter, axes[name]) for name, parameter in network.named_parameters() if name in axes]


@families
def test_permuting_the_channels_everywhere_changes_nothing(family, tmp_path):
    """The test that no tensor is forgotten, and none is taken that has no channels."""
    model = model_of(family)
    before = logits(model, tmp_path, family)
    order = torch.randperm(model.network.config.hidden_size, generator=torch.Generator().manual_seed(0))
    for parameter, axes in parameters(model.network):
        for axis in axes:
            parameter.data = parameter.data.index_select(axis, order)
    assert torch.allclose(logits(model, tmp_path, family), before, atol=1e-5)


@families
def test_removed_channels_are_channels_of_zeros(family, tmp_path):
    """A LayerNorm takes its statistics over what is kept; a root-mean-square norm needs nothing."""
    whole, cut = model_of(family), model_of(family)
    for model in (whole, cut):
        for path in root_mean_square_norms(model.network):  # it is added to the mean over all, or over what is kept
            norm = model.network.get_submodule(path)
            setattr(norm, "eps" if hasattr(norm, "eps") else "variance_epsilon", 1e-12)
    width = whole.network.config.hidden_size
    kept = tuple(number for number in range(width) if number % 32 in KEPT)
    cut.edit([KeepChannels(kept=kept)])
    mask = torch.zeros(width).index_fill(0, torch.tensor(kept), 1.0)
    for parameter, axes in parameters(whole.network):
        for axis in axes:
            parameter.data *= mask.view([-1 if place == axis else 1 for place in range(parameter.ndim)])
    for module in whole.network.modules():
        if isinstance(module, nn.LayerNorm) and module.normalized_shape == (width,):
            module.forward = over(module, torch.tensor(kept))
    assert torch.allclose(logits(cut, tmp_path, family), logits(whole, tmp_path, family), atol=2e-5)
    removed = sum(
        parameter.numel() - (parameter.numel() * len(kept) ** len(axes)) // width ** len(axes)
        for parameter, axes in parameters(whole.network)
    )
    assert cut.network.num_parameters() == whole.network.num_parameters() - removed
    assert len(list(cut.network.parameters())) == len(list(whole.network.parameters()))  # tied ones are tied


def over(norm, kept):
    def forward(values):
        result = torch.zeros_like(values)
        bias = None if norm.bias is None else norm.bias[kept]
        result[..., kept] = nn.functional.layer_norm(values[..., kept], (len(kept),), norm.weight[kept], bias, norm.eps)
        return result

    return forward


@families
def test_a_narrow_model_reloads_bit_for_bit_and_may_be_cut_again(family, tmp_path):
    model = model_of(family)
    width = model.network.config.hidden_size
    model.edit([KeepChannels(kept=tuple(range(width - 5)))])  # no multiple of the heads
    model.edit([KeepChannels(kept=tuple(range(3, width - 5)))])
    lissom.save(model, tmp_path / "model")
    again = lissom.load(tmp_path / "model")
    assert torch.equal(logits(again, tmp_path, family), logits(model, tmp_path, family))
    assert again.network.config.hidden_size == width - 8


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_other_structure_goes_with_it(family, tmp_path):
    model = tiny.model(family)
    heads = KeepHeads(kept=((0,), (1,), (0,)))
    edits = [KeepBlocks(kept=(0, 1, 3)), heads, KeepChannels(kept=KEPT), FactorizeWordTable(rank=4)]
    model.edit(tiny.suited(family, edits))
    export_onnx(model, tmp_path)
    batch = tiny.batch(family, 3, 11)
    classifier = OnnxClassifier(tmp_path)
    actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(actual), logits_of(model.network, batch), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "t5"])
def test_root_mean_square_norms_are_told_by_what_they_do(family):
    """Their answers do not change when their inputs are doubled; Gemma's multiply by 1 + weight."""
    network = model_of(family).network
    norms = root_mean_square_norms(network)
    assert norms
    for path, multiply in norms.items():
        norm = copy.deepcopy(network.get_submodule(path))
        values = torch.randn(2, len(norm.weight)) * 10
        before = norm(values)
        assert torch.allclose(norm(values * 2), before, atol=1e-4)
        norm.weight.data = multiply(norm.weight.data, 0.5)
        assert torch.allclose(norm(values), before / 2, atol=1e-5)


def test_what_cannot_be_cut_is_told():
    model = tiny.model("bert")
    with pytest.raises(InputError, match="from 0 to 31"):
        model.edit([KeepChannels(kept=(0, 32))])
    for edit in (LowRank(ranks={"bert.encoder.layer.0.output.dense": 4}), AddExits()):
        model = tiny.model("bert")
        model.edit([edit])
        with pytest.raises(InputError, match="before its layers are replaced or added"):
            model.edit([KeepChannels(kept=KEPT)])
