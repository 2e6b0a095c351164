"""However a training is cut, it is the training of one process: the same losses, the same weights."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForMaskedLM

from lissom.distill.distilbert import cosine_loss
from lissom.distill.language import Masking, language_loss
from lissom.distill.mutual import MutualLoss
from lissom.distill.offline_config import DistilBertDistillation, LanguageModelParams
from lissom.models.edits import FakeQuantize, KeepHeads, KeepNeurons
from lissom.models.signals import SignalSpec
from lissom.models.together import Together
from lissom.parallel.sharding import sharded
from lissom.quantize.int8 import RangeSchedule, calibrate
from lissom.training.config import LogitsLossParams
from lissom.training.hooks import Hook
from lissom.training.loop import fit
from lissom.training.losses import against_teacher
from lissom.training.objective import objective
from lissom.training.teacher import CachedLogits, LiveTeacher
from tests.distributed.processes import spread
from tests.distributed.training import DATA, PARAMS, compare, quiet, train, weights
from tests.unit import tiny

LAYOUTS = {
    "replicas": {"data": 2},
    "more replicas than examples in the last batch": {"data": 4},
    "accumulated": {"data": 2, "microbatches": 2},
    "sharded": {"data": 2, "shard": True},
    "tensor": {"tensor": 2},
    "tensor, every head alone": {"tensor": 4},
    "tensor, sequence": {"tensor": 2, "sequence": True},
    "tensor and replicas": {"tensor": 2, "data": 2},
    "gpipe": {"pipeline": 2, "microbatches": 3, "schedule": "gpipe"},
    "1f1b": {"pipeline": 4, "microbatches": 4},
    "naive pipeline": {"pipeline": 2, "schedule": "gpipe"},
    "interleaved": {"pipeline": 2, "microbatches": 4, "schedule": "interleaved_1f1b"},
    "zero bubble": {"pipeline": 2, "microbatches": 4, "schedule": "zero_bubble"},
    "varuna": {"pipeline": 4, "microbatches": 5, "schedule": "varuna"},
    "varuna, eager": {"pipeline": 2, "microbatches": 3, "schedule": "varuna_eager"},
    "recomputed": {"pipeline": 2, "microbatches": 2, "recompute": True},
    "2 x 2 x 2": {"data": 2, "tensor": 2, "pipeline": 2, "microbatches": 2},
}


# transformers' own attention, which a soft cap needs, computes the softmax in float32: there the mask of float64 is -inf,
# and queries that see nothing but padding become NaN.
DOUBLE = [name for name in tiny.FAMILY_NAMES if name != "gemma2"]


@pytest.fixture(scope="module")
def alone():
    return {family: train(None, family) for family in DOUBLE}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_trains_as_one_process_does(layout, alone):
    compare(spread(train, **layout), alone["bert"])


@pytest.mark.parametrize("family", [name for name in DOUBLE if name != "bert"])
@pytest.mark.parametrize("layout", [{"tensor": 2}, {"pipeline": 2, "microbatches": 2}], ids=["tensor", "pipeline"])
def test_every_family_can_be_cut(family, layout, alone):
    compare(spread(train, family, **layout), alone[family])


def train_and_weigh(world):
    network, whole = quiet(tiny.model("bert")).network, []

    class Weigh(Hook):
        def after_step(self, step, total):
            whole.append(sum(parameter.untyped_storage().nbytes() for parameter in network.parameters()))

    fit(network, DATA, 0, tiny.LOSS, PARAMS, hooks=[Weigh()], world=world)
    return whole, {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_sharded_weights_are_whole_nowhere_while_a_step_runs():
    shapes = {name: tuple(tensor.shape) for name, tensor in tiny.model("bert").network.state_dict().items()}
    for held, actual in spread(train_and_weigh, data=2, shard=True):
        assert set(held) == {0} and actual == shapes


UNEVEN = [
    KeepHeads(kept=((0, 1), (2,), (0, 1, 2, 3), (1, 3))),
    KeepNeurons(kept=(tuple(range(8)), tuple(range(40)), tuple(range(7)), tuple(range(48)))),
]


@pytest.mark.parametrize("layout", [{"tensor": 2}, {"pipeline": 3, "microbatches": 3}, {"data": 3}], ids=str)
def test_pruned_networks_with_uneven_blocks_can_be_cut(layout):
    compare(spread(train, "bert", UNEVEN, **layout), train(None, "bert", UNEVEN))


@pytest.mark.parametrize("layout", [{"pipeline": 2, "microbatches": 2}, {"tensor": 2}, {"data": 2}], ids=str)
def test_students_learn_from_cached_logits(layout):
    answers = CachedLogits(torch.randn(27, 3, generator=torch.Generator().manual_seed(0)))
    loss = against_teacher(answers, LogitsLossParams(), tiny.TASK)
    compare(spread(train, "bert", (), loss, **layout), train(None, "bert", (), loss))


COMPILED = {
    "pipeline": {"pipeline": 2, "microbatches": 2, "recompute": True},
    "plain blocks instead": {"pipeline": 2, "microbatches": 2, "schedule": "varuna"},
}


def train_compiled(world):
    from torch._inductor import config

    config.compile_threads = 1  # helpers that were started before the fork answer nobody here
    return train(world, params=PARAMS.model_copy(update={"compile": True}))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("layout", COMPILED.values(), ids=COMPILED)
def test_generated_kernels_can_be_cut(layout, alone):
    compare(spread(train_compiled, **layout), alone["bert"])


def train_peers(world):
    peers = [quiet(tiny.model("bert", seed)) for seed in (0, 1)]
    together = Together([peer.network for peer in peers])
    loss = MutualLoss(1.0, 0.5, tiny.TASK)
    fitted = fit(together, DATA, 0, objective(loss), PARAMS, hooks=[loss], world=world)
    return weights(together), fitted.records


@pytest.mark.parametrize("layout", [{"pipeline": 2, "microbatches": 2}, {"tensor": 2}, {"data": 2}], ids=str)
def test_networks_that_learn_together_are_cut_together(layout):
    compare(spread(train_peers, **layout), train_peers(None))


def train_beside_a_teacher(world):
    teacher = quiet(tiny.model("bert", seed=5))
    params = DistilBertDistillation(method="distilbert", blocks=(0, 1, 2, 3), cosine_weight=3.0)
    with sharded(teacher.network, world) as asked:
        loss = cosine_loss(LiveTeacher(asked, SignalSpec(hidden=(4,))), 4, 4, params, tiny.TASK)
        return train(world, loss=loss)


LAYOUTS_BESIDE_A_TEACHER = [
    {"data": 2},
    {"data": 2, "microbatches": 2},
    {"pipeline": 2, "microbatches": 2},
    {"data": 2, "microbatches": 2, "shard": True},
]


@pytest.mark.parametrize("layout", LAYOUTS_BESIDE_A_TEACHER, ids=str)
def test_means_over_tokens_are_weighted_by_tokens(layout):
    """A part with long texts counts for more; and where signals are compared, a pipeline's processes become replicas."""
    compare(spread(train_beside_a_teacher, **layout), train_beside_a_teacher(None))


def train_masked(world):
    torch.manual_seed(0)
    learner, teacher = (AutoModelForMaskedLM.from_config(tiny.CONFIGS["bert"]()) for _ in range(2))
    model = tiny.model("bert")
    model.tokenizer_config["mask_token"] = "[UNK]"
    for network in (learner, teacher):
        quiet(SimpleNamespace(network=network))
    params = LanguageModelParams(mask_probability=0.3, training=PARAMS)
    masking = Masking(model, learner, DATA, params)
    fitted = fit(learner, DATA, 0, language_loss(teacher, masking, params), PARAMS, hooks=[masking], world=world)
    return weights(learner), fitted.records


@pytest.mark.parametrize("layout", [{"data": 2}, {"data": 2, "microbatches": 2}], ids=str)
def test_masked_words_are_weighted_by_masked_words(layout):
    """And masked alike in every layout."""
    compare(spread(train_masked, **layout), train_masked(None))


def train_quantized(world):
    model = quiet(tiny.model("bert"))
    model.edit([FakeQuantize()])
    model.network.double()  # the ranges too
    calibrate(model.network, [tiny.batch("bert", seed=seed) for seed in (1, 2)])
    fitted = fit(model.network, DATA, 0, tiny.LOSS, PARAMS, hooks=[RangeSchedule(0.5)], world=world)
    return weights(model.network), fitted.records


QUANTIZED_LAYOUTS = {
    "replicas": {"data": 2},
    "replicas instead of cut layers": {"tensor": 2},
    "accumulated and recomputed": {"data": 2, "microbatches": 2, "recompute": True},
    "pipeline": {"pipeline": 2, "microbatches": 2},
    "recomputed": {"pipeline": 2, "microbatches": 2, "recompute": True},
    "varuna": {"pipeline": 2, "microbatches": 3, "schedule": "varuna"},
    "sharded": {"data": 2, "shard": True},
}


@pytest.mark.parametrize("layout", QUANTIZED_LAYOUTS.values(), ids=QUANTIZED_LAYOUTS)
def test_input_ranges_are_those_of_the_whole_batch(layout):
    """Ranges move between steps only.

    With 64 bits: sums in another order differ by so little that no value is rounded to another point of its grid. With
    32 bits some are, and Adam makes of each as much as of any gradient.
    """
    expected = train_quantized(None)
    actual = spread(train_quantized, **layout)
    compare(actual, expected, tolerance=1e-8, loss_tolerance=1e-6)
    bounds = [name for name in expected[0] if name.endswith(("low", "high"))]
    assert len(bounds) == 2 * 25
    for name in bounds:
        assert (actual[0][0][name] == actual[1][0][name]).all()
