"""Pruning of single weights: exact counts, scores by hand, zeros that stay, and a file that is smaller."""

from dataclasses import replace

import pytest
import torch

from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import FakeQuantize, LowRank, SparseWeights
from lissom.prune.masks import keep_blocks, keep_highest, keep_pattern, prunable
from lissom.prune.plan import plan
from lissom.prune.sparse_config import UnstructuredPruning
from lissom.prune.unstructured import Gradual, scheduled
from lissom.quantize.config import GgufTraining
from lissom.quantize.plan import plan as plan_quantization
from lissom.training.compress import compress
from lissom.training.config import LoraParams
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.loop import fit
from lissom.training.recipe import Recipe
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in
from tests.unit.test_loop import PARAMS as TRAINING
from tests.unit.test_loop import examples

CRITERIA = ["magnitude", "gradient", "taylor", "snip", "magnitude_and_gradient", "random"]
families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)


def params_of(**changes):
    return UnstructuredPruning.model_validate({"method": "unstructured", "training": SHORT, **changes})


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def pruned(model, lesson, params):
    """The model pruned and trained, and its zeros by layer."""
    teacher = LiveTeacher(tiny.model(model.network.config.model_type, 1).network)
    result = compress(model, plan(model, lesson, params), lesson, teacher, params.training)
    return zeros_of(model), result


def zeros_of(model):
    return {path: model.network.get_submodule(path).weight == 0 for path in prunable(model.network)}


def share(zeros):
    return sum(int(zero.sum()) for zero in zeros.values()) / sum(zero.numel() for zero in zeros.values())


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("sparsity", [0, 0.3, 0.5, 0.77, 1])
def test_counts_are_exact_also_with_ties(scope, sparsity):
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(shape, generator=generator) for name, shape in (("a", (7, 5)), ("b", (4, 9)))}
    scores["c"] = torch.ones(6, 6)
    masks = keep_highest(scores, sparsity, scope)
    groups = [[name] for name in masks] if scope == "layer" else [list(masks)]
    for names in groups:
        count = sum(masks[name].numel() for name in names)
        removed = sum(int((~masks[name]).sum()) for name in names)
        assert removed == -(-round(sparsity * count * 1000) // 1000)
    lowest = min(scores["a"][masks["a"]], default=None)
    if scope == "layer" and lowest is not None:
        assert all(value <= lowest for value in scores["a"][~masks["a"]])


def test_masks_are_nested_and_of_the_original_count():
    scores = {"a": torch.rand(10, 10)}
    kept = None
    for sparsity in (0.1, 0.2, 0.5):
        masks = keep_highest({"a": torch.rand(10, 10)}, sparsity, "global", kept)
        assert int((~masks["a"]).sum()) == round(100 * sparsity)
        assert kept is None or not (masks["a"] & ~kept["a"]).any()
        kept = masks
    assert torch.equal(keep_highest(scores, 0, "global")["a"], torch.ones(10, 10).bool())


def test_patterns_keep_the_best_of_every_group():
    scores = {"a": torch.tensor([[4.0, 1, 3, 2, 0, 0, 0, 0]])}
    assert keep_pattern(scores, "2:4")["a"].tolist() == [[True, False, True, False, True, True, False, False]]


@families
def test_zeros_stay_through_the_training_and_the_file(family, lesson, tmp_path):
    model = tiny.model(family)
    zeros, result = pruned(model, lesson, params_of(sparsity=0.6))
    assert share(zeros) == pytest.approx(0.6, abs=1e-3) and result.metrics["sparsity"] == share(zeros)
    save(model, tmp_path / "sparse")
    again, batch = load(tmp_path / "sparse"), tiny.batch(family)
    with torch.no_grad():
        assert torch.equal(logits_of(again.network, batch), logits_of(model.network.eval(), batch))
    model.manifest = model.manifest.model_copy(update={"edits": ()})
    save(model, tmp_path / "dense")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("sparse", "dense")]
    assert sizes[0] < sizes[1]
    assert "smaller on disk, not faster" in again.manifest.edits[-1].describe()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_removes_what_is_asked_for(criterion, lesson):
    zeros, _ = pruned(
        tiny.model("bert"), lesson, params_of(sparsity=0.5, criterion=criterion, scope="layer", training=None)
    )
    assert all(int(zero.sum()) == zero.numel() // 2 for zero in zeros.values())


@pytest.mark.parametrize(
    ("schedule", "criterion"), [("linear", "taylor"), ("cubic", "magnitude"), ("cubic", "gradient")]
)
def test_rounds_end_at_the_sparsity(schedule, criterion, lesson):
    params = params_of(schedule=schedule, criterion=criterion, sparsity=0.7, rounds=4, training=SHORT | {"epochs": 2})
    model = tiny.model("bert")
    zeros, _ = pruned(model, lesson, params)
    assert share(zeros) == pytest.approx(0.7, abs=1e-3)
    assert model.manifest.edits[-1] == SparseWeights(sparsity=share(zeros))


class Watch(Hook):
    """Looks at the zeros after every step."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def after_step(self, step, total):
        self.seen.append({path: zero.clone() for path, zero in zeros_of(self.model).items()})


def test_rounds_only_remove():
    model, params = tiny.model("bert"), params_of(schedule="cubic", sparsity=0.8, rounds=5, ramp=0.8)
    watch = Watch(model)
    hooks = [Gradual(prunable(model.network), params), watch]
    fit(model.network, examples(), 0, tiny.LOSS, TRAINING, hooks=hooks)
    shares = [share(zeros) for zeros in watch.seen]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(0.8, abs=1e-3) and len(set(shares)) >= 5
    for before, after in zip(watch.seen, watch.seen[1:], strict=False):
        assert all(not (before[path] & ~after[path]).any() for path in before)


def test_schedules():
    cubic, linear = params_of(schedule="cubic", sparsity=0.8), params_of(schedule="linear", sparsity=0.8)
    assert [round(scheduled(cubic, x), 6) for x in (0, 0.5, 1)] == [0, 0.7, 0.8]
    assert [round(scheduled(linear, x), 6) for x in (0, 0.5, 1)] == [0, 0.4, 0.8]


def test_a_killed_round_goes_on_as_if_nothing_had_been(tmp_path):
    from lissom.storage import remove_folder
    from lissom.training.checkpoint import Checkpoints
    from tests.unit.test_loop import KillAt, Killed, same, weights

    def run(more=()):
        model = tiny.model("bert")
        params = params_of(schedule="cubic", criterion="taylor", sparsity=0.7, rounds=6)
        checkpoints = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
        hooks = [Gradual(prunable(model.network), params), *more]
        fit(model.network, examples(), 0, tiny.LOSS, TRAINING, hooks=hooks, checkpoints=checkpoints)
        remove_folder(tmp_path / "checkpoint")
        return weights(model.network)

    expected = run()
    with pytest.raises(Killed):
        run([KillAt(8)])
    assert same(expected, run([KillAt(0)]))  # step 0 does not come again


def test_later_trainings_keep_the_zeros(lesson):
    """Also those with fake quantisation or with weights on a grid, whose rounding keeps zeros."""
    model = tiny.model("bert")
    zeros, _ = pruned(model, lesson, params_of(sparsity=0.6))
    teacher = LiveTeacher(tiny.model("bert", 1).network)
    compress(model, Recipe(edits=[FakeQuantize()]), lesson, teacher, params_of().training)
    later = zeros_of(model)
    assert all(torch.equal(zeros[path], later[path]) for path in zeros)
    rounded = tiny.model("bert")
    zeros, _ = pruned(rounded, lesson, params_of(sparsity=0.6))
    recipe = plan_quantization(rounded, lesson, GgufTraining(method="gguf", type="q4_0"))
    compress(rounded, recipe, lesson, teacher, params_of().training)
    assert all((zeros_of(rounded)[path] | ~zero).all() for path, zero in zeros.items())
    lora = params_of().training.model_copy(update={"lora": LoraParams()})
    with pytest.raises(InputError, match="adapters would fill the zeros"):
        compress(model, Recipe(), lesson, teacher, lora)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_sparse_model_becomes_as_sparse_as_asked_for(criterion, lesson):
    """What was removed before counts, and stays; the manifest tells the zeros that there are."""
    model = tiny.model("bert")
    before, _ = pruned(model, lesson, params_of(sparsity=0.3))
    zeros, result = pruned(model, lesson, params_of(sparsity=0.5, criterion=criterion))
    assert share(zeros) == pytest.approx(0.5, abs=1e-3) and result.metrics["sparsity"] == share(zeros)
    assert all((zeros[path] | ~zero).all() for path, zero in before.items())
    fewer, _ = pruned(model, lesson, params_of(sparsity=0.2, criterion=criterion))
    assert share(fewer) == share(zeros), "nothing comes back"


def test_the_manifest_tells_the_zeros_that_are_left(lesson):
    model, teacher = tiny.model("bert"), LiveTeacher(tiny.model("bert", 1).network)
    pruned(model, lesson, params_of(sparsity=0.6))
    targets = tuple(path for path in prunable(model.network) if path.endswith(("query", "key")))
    compress(model, Recipe(edits=[LowRank(ranks=dict.fromkeys(targets, 4))]), lesson, teacher, None)
    (edit,) = [edit for edit in model.manifest.edits if isinstance(edit, SparseWeights)]
    plain = [
        layer
        for path in prunable(model.network)
        if path not in targets
        for layer in [model.network.get_submodule(path)]
    ]
    expected = sum(int((layer.weight == 0).sum()) for layer in plain) / sum(layer.weight.numel() for layer in plain)
    assert edit.sparsity == pytest.approx(expected) and edit.sparsity != pytest.approx(0.6, abs=1e-4)


def test_iterations_each_have_a_training(lesson):
    watch = Starts()
    own, params = replace(lesson, hooks=lambda _: [watch]), params_of(schedule="iterative", sparsity=0.7, rounds=3)
    model = tiny.model("bert")
    watch.model = model
    zeros, result = pruned(model, own, params)
    assert watch.shares == pytest.approx([1 - 0.3 ** (number / 3) for number in (1, 2, 3)], abs=1e-3)
    assert share(zeros) == pytest.approx(0.7, abs=1e-3) and result.metrics["steps"] == 3 * 16
    assert params_of(schedule="iterative").steps == 3 and params_of(schedule="cubic").steps == 20


class Starts(Hook):
    """Keeps the sparsity with which every training begins."""

    def __init__(self):
        self.shares = []

    def begin(self, network):
        self.shares.append(share(zeros_of(self.model)))


def test_tiles_go_as_a_whole(lesson):
    model = tiny.model("bert")
    zeros, _ = pruned(model, lesson, params_of(pattern="4x8", sparsity=0.5))
    assert share(zeros) == pytest.approx(0.5, abs=0.01)
    for zero in zeros.values():
        tiles = zero.view(zero.shape[0] // 4, 4, zero.shape[1] // 8, 8).sum((1, 3))
        assert set(tiles.flatten().tolist()) <= {0, 32}
    scores = {"a": torch.tensor([[9.0, 0, 1, 1], [0, 0, 1, 1]])}
    kept = keep_blocks(scores, "2x2", 0.5, "global", {"a": torch.ones(2, 4).bool()})
    assert kept["a"].tolist() == [[True, True, False, False]] * 2, "the sum decides"
    assert "zero: smaller" in model.manifest.edits[-1].describe()


def test_patterns_that_do_not_fit_are_refused(lesson):
    with pytest.raises(InputError, match=r"prune\.pattern 5x8: .* outputs, which 5 does not divide"):
        plan(tiny.model("bert"), lesson, params_of(pattern="5x8"))
    with pytest.raises(ValueError, match=r"set training\.lora: null"):
        params_of(training=SHORT | {"lora": {}})
    with pytest.raises(InputError, match=r"prune\.pattern 2:7: .* which 7 does not divide"):
        plan(tiny.model("bert"), lesson, params_of(pattern="2:7"))
    with pytest.raises(ValueError, match="N must be less than M"):
        params_of(pattern="4:4")
    with pytest.raises(ValueError, match="training is null"):
        params_of(schedule="cubic", training=None)
