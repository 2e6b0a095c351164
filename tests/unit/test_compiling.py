"""Generated kernels: the same training, with what is outside of blocks untouched."""

import shutil

import pytest
import torch

from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.edits import FakeQuantize
from lissom.models.signals import SignalSpec, signals_of
from lissom.models.sites import blocks_of
from lissom.storage import remove_folder
from lissom.training.checkpoint import Checkpoints
from lissom.training.compiling import compiled
from lissom.training.loop import fit
from lissom.training.objective import objective
from tests.distributed.training import DATA, PARAMS, quiet, weights
from tests.unit import tiny
from tests.unit.test_loop import KillAt, Killed

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def train(compile_blocks: bool):
    model = quiet(tiny.model("bert"))
    model.network.activation_checkpointing_enable({"use_reentrant": False})

    def loss(network, batch):
        signals = signals_of(network, batch, SignalSpec(hidden=(0, 2)))
        return torch.nn.functional.cross_entropy(signals.logits, batch.targets) + signals.hidden[2].square().mean()

    params = PARAMS.model_copy(update={"compile": compile_blocks})
    fitted = fit(model.network, DATA, 0, objective(loss, needs_internals=True), params, score=tiny.scorer(model, DATA))
    assert not any("forward" in vars(block) for block in blocks_of(model.network))
    return weights(model.network), fitted.records


@pytest.mark.slow
@needs_compiler
def test_generated_kernels_train_as_plain_blocks_do():
    """With recomputed activations, ragged batches, a loss that looks inside, and scoring in between."""
    from torch._dynamo.utils import counters

    expected, records = train(False)
    counters.clear()
    actual, report = train(True)
    assert 1 <= counters["stats"]["unique_graphs"] <= 4 and not counters["graph_break"]
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, abs=1e-9), name
    assert report == [pytest.approx(record, abs=1e-9) for record in records]


@pytest.mark.slow
@needs_compiler
def test_masks_of_generated_kernels_follow_from_the_step(tmp_path):
    params = PARAMS.model_copy(update={"compile": True})

    def run(*hooks):
        network = tiny.model("bert").network  # has dropout
        checkpoints = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
        fit(network, DATA, 0, tiny.LOSS, params, hooks=hooks, checkpoints=checkpoints)
        remove_folder(tmp_path / "checkpoint")
        return weights(network)

    expected = run()
    with pytest.raises(Killed):
        run(KillAt(5))
    actual = run(KillAt(0))  # step 0 does not come again
    assert all((actual[name] == value).all() for name, value in expected.items())


def test_quantised_blocks_stay_as_they_are_and_that_is_told(capsys):
    model, batch = tiny.model("bert"), tiny.batch("bert")
    model.edit([FakeQuantize()])
    with compiled(model.network, None):
        assert not any("forward" in vars(block) for block in blocks_of(model.network))
        logits_of(model.network, batch)
    assert "4 of 4 blocks are quantised, and stay as they are" in capsys.readouterr().err


def test_without_a_compiler_it_is_told_what_to_change(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="there is no no-such-compiler; set compile: false"):
        fit(tiny.model("bert").network, DATA, 0, tiny.LOSS, PARAMS.model_copy(update={"compile": True}))
