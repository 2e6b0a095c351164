"""Layers that stay in floats under a budget of latency: the most sensitive ones, as many as the budget allows."""

from dataclasses import replace

import pytest
import torch

from lissom.errors import InputError
from lissom.evaluate.relative_latency import relative_latency
from lissom.models.edits import FakeQuantize
from lissom.models.edits.quantizers import quantised_products
from lissom.models.fake_quant import FakeQuantLinear
from lissom.models.grid import fake_quantize_rows, weight_high
from lissom.models.sensitivity import effects
from lissom.quantize.config import Int8Training
from lissom.quantize.plan import plan
from lissom.training.lesson import Lesson
from lissom.training.sampling import calibration_batches
from tests.unit import tiny
from tests.unit.distill.recipes import tables_in


def rounded(model):
    return [path for path, module in model.network.named_modules() if isinstance(module, FakeQuantLinear)]


def params_of(latency, **changes):
    return Int8Training.model_validate(
        {
            "method": "int8",
            "latency": latency,
            "calibration_examples": 16,
            "weight_bits": 4,
            "training": None,
            **changes,
        }
    )


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def test_the_most_sensitive_layers_stay_as_far_as_the_budget_goes(lesson):
    """By a clock in which a rounded layer takes half as long, and all ranges are known when it is read."""
    model = tiny.model("bert")
    layers, asked = quantised_products(model.network), []

    def clock(whole, edited, texts):
        asked.append(len(rounded(edited)))
        assert len(texts) == len(lesson.tables["dev"]) and all(
            bool(layer.observed) for layer in edited.network.modules() if isinstance(layer, FakeQuantLinear)
        )
        return 1 - 0.5 * len(rounded(edited)) / len(layers)

    timed = replace(lesson, latency=clock)
    recipe = plan(model, timed, params_of(0.8))
    (edit,) = recipe.edits
    batches = calibration_batches(model, lesson, 16, 0)
    change = {"rounded": lambda weight: fake_quantize_rows(weight, weight_high(4))}
    found = {effect.layer: effect.divergence for effect in effects(model, batches, layers, change)}
    model.edit([edit])
    left = set(layers) - set(rounded(model))
    assert len(left) == int(0.6 * len(layers)) and len(asked) < len(layers)
    assert min(found[path] for path in left) >= max(found[path] for path in rounded(model))
    with pytest.raises(InputError, match=r"quantize\.latency: 0\.4 of latency cannot be reached; the least is 0\.5"):
        plan(tiny.model("bert"), timed, params_of(0.4))


def test_the_exported_files_are_timed(lesson, tmp_path):
    timed = replace(lesson, latency=relative_latency(tmp_path, tmp_path / "latency.json"))
    model = tiny.model("bert")
    with pytest.raises(InputError, match=r"quantize\.latency: 0\.01 of latency cannot be reached"):
        plan(model, timed, params_of(0.01, keep=["query$"]))
    assert not any(isinstance(edit, FakeQuantize) for edit in model.manifest.edits)


def test_layers_are_judged_by_the_rounding_that_is_applied(lesson, monkeypatch):
    """Signs with the mean weight, and not the largest."""
    found = []

    def look(model, batches, layers, changes):
        found.append(changes["rounded"](model.network.get_submodule(layers[0]).weight.detach()))
        return effects(model, batches, layers, changes)

    monkeypatch.setattr("lissom.quantize.float_layers.effects", look)
    timed = replace(lesson, latency=lambda *_: 0.5)
    model = tiny.model("bert")
    plan(model, timed, params_of(0.8, weight_bits=1, weight_scale="mean"))
    weight = model.network.get_submodule(quantised_products(model.network)[0]).weight.detach()
    assert torch.allclose(found[0].abs(), weight.abs().mean(1, keepdim=True).expand_as(weight))


def test_a_model_in_which_nothing_is_left_to_round_is_refused(lesson):
    with pytest.raises(InputError, match="there is nothing to round"):
        plan(tiny.model("bert"), lesson, params_of(None, keep=(".",)))
