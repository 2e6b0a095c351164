"""Exits: in torch, on disk and in the exported graph."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

import lissom
from lissom.distill.deep_to_shallow import deep_loss
from lissom.distill.fastbert import divergence, exits_loss
from lissom.distill.self_config import DeepToShallowDistillation
from lissom.errors import InputError
from lissom.evaluate.exits import choose
from lissom.export.exported import TriedSpeed
from lissom.export.kernels import count_kernels
from lissom.export.onnx import FULL_DEPTH, export_onnx
from lissom.models.compressed import logits_of
from lissom.models.edits import AddExits, DropExits, FactorizeWordTable, FakeQuantize, KeepBlocks, KeepHeads
from lissom.models.exits import all_logits, run_early_exit, uncertainty
from lissom.models.flops import flops_by_depth
from lissom.quantize.int8 import calibrate
from lissom.serving.classifier import OnnxClassifier
from lissom.tasks.metric import ACCURACY, Metric
from tests.unit import tiny

families = pytest.mark.parametrize("family", tiny.able("exits"))
SPEEDS = (FULL_DEPTH, 0.6, 0.9, 0.95, 0.99, 1.0)


def with_exits(family: str, seed: int = 0, *edits):
    model = tiny.model(family, seed)
    torch.manual_seed(seed)
    model.edit([*edits, AddExits(size=8)])
    for leave in model.network.exits:  # answers that differ in certainty
        leave.classifier.weight.data.mul_(6)
    return model


def row_of(batch, row: int):
    length = int(batch.mask[row].sum())
    alone = batch.examples(torch.tensor([row]))
    return replace(alone, inputs={name: tensor[:, :length] for name, tensor in alone.inputs.items()})


def test_uncertainty_is_normalised():
    logits = torch.tensor([[0.0, 0.0, 0.0], [100.0, -100.0, -100.0], [1e4, -1e4, 0.0]])
    actual = uncertainty(logits)
    assert actual[0] == pytest.approx(1, abs=1e-6) and actual[1] == actual[2] == 0
    assert uncertainty(torch.zeros(1, 2, dtype=torch.float16)) <= 1


@families
def test_full_depth_is_the_whole_network(family):
    model, batch = with_exits(family), tiny.batch(family)
    with torch.no_grad():
        early, answers = run_early_exit(model.network, batch, FULL_DEPTH), all_logits(model.network, batch)
        assert torch.allclose(early.logits, answers[-1], atol=1e-5)
        assert torch.allclose(answers[-1], logits_of(model.network, batch), atol=1e-6)
    assert (early.depth == 4).all() and len(answers) == 4


@families
def test_leaving_early_gives_the_exits_answer_alone_or_in_a_batch(family):
    model, batch = with_exits(family), tiny.batch(family, size=8)
    depths = []
    with torch.no_grad():
        answers = torch.stack(all_logits(model.network, batch))
        first = uncertainty(answers[0]).sort().values
        # Where the first exit parts the batch, between two of its answers: families differ in how certain they are.
        parting = [float(first[number : number + 2].mean()) for number in (1, 3, 5)]
        for speed in (FULL_DEPTH, *parting, 1.0):
            early = run_early_exit(model.network, batch, speed)
            assert torch.allclose(early.logits, answers[early.depth - 1, torch.arange(8)], atol=1e-4)
            for row in range(8):
                alone = run_early_exit(model.network, row_of(batch, row), speed)
                assert int(alone.depth) == int(early.depth[row])
                assert torch.allclose(alone.logits[0], early.logits[row], atol=1e-4)
            depths.append(float(early.depth.float().mean()))
    assert depths == sorted(depths, reverse=True) and depths[0] == 4 and depths[-1] == 1
    assert len(set(depths)) > 2  # some speeds part the batch


@pytest.mark.parametrize("quantize", [False, True], ids=["float", "int8"])
@families
def test_the_exported_graph_leaves_where_torch_does(family, quantize, tmp_path):
    # Parts of all families are joined in the same way: three of them are nested for one family.
    edits = [KeepBlocks(kept=(0, 3)), KeepHeads(kept=((0,), (0, 1)))]
    if family == "bert":
        edits = [KeepBlocks(kept=(0, 1, 3)), KeepHeads(kept=((0,), (0, 1), (1,)))]
    model = with_exits(family, 0, *edits)
    if quantize:
        model.edit(tiny.suited(family, [FactorizeWordTable(rank=8), FakeQuantize()]))
        calibrate(model.network, [tiny.batch(family, seed=seed) for seed in (1, 2)])
    kernels = export_onnx(model, tmp_path).kernels()
    assert (kernels > 10) == quantize
    classifier = OnnxClassifier(tmp_path)
    assert classifier.speed == FULL_DEPTH
    for size, length in ((1, 3), (7, 12)):
        batch = tiny.batch(family, size, length)
        inputs = {name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]}
        for speed in SPEEDS:
            with torch.no_grad():
                expected = run_early_exit(model.network, batch, speed)
            logits, depth = classifier.answer(inputs, speed)
            same = depth == expected.depth.numpy()
            assert same.all() or quantize
            assert np.abs(logits - expected.logits.numpy())[same].max(initial=0) < (0.1 if quantize else 1e-3)


@pytest.mark.parametrize("family", sorted(set(tiny.FAMILY_NAMES) - set(tiny.able("exits"))))
def test_exits_are_refused_where_blocks_cannot_run_apart(family):
    with pytest.raises(InputError, match="add_exits: not possible with a"):
        with_exits(family)


def test_skipped_blocks_are_not_executed(tmp_path):
    model = with_exits("bert")
    export_onnx(model, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    outside = [node.op_type for node in graph.node]
    assert outside.count("If") == 1 and outside.count("MultiHeadAttention") == 1
    assert count_kernels(tmp_path / "model.onnx")["MultiHeadAttention"] == 4


def test_a_speed_for_a_model_without_exits_is_refused(plain_export):
    with pytest.raises(ValueError, match="no exits"):
        OnnxClassifier(plain_export).predict(["the film"], speed=0.5)
    with pytest.raises(ValueError, match="no exits"):
        OnnxClassifier(plain_export, speed=0.5)


@families
def test_reload_bit_for_bit_and_dropping_exits_keeps_the_answer(family, tmp_path):
    model, batch = with_exits(family), tiny.batch(family)
    with torch.no_grad():
        expected = logits_of(model.network, batch)
    lissom.save(model, tmp_path / "exits")
    loaded = lissom.load(tmp_path / "exits")
    with torch.no_grad():
        assert torch.equal(logits_of(loaded.network, batch), expected)
        assert len(all_logits(loaded.network, batch)) == 4
        loaded.edit([DropExits()])
        assert torch.equal(logits_of(loaded.network, batch), expected)
        assert len(all_logits(loaded.network, batch)) == 1
    lissom.save(loaded, tmp_path / "dropped")
    with torch.no_grad():
        assert torch.equal(logits_of(lissom.load(tmp_path / "dropped").network, batch), expected)
    with pytest.raises(InputError, match="no exits besides"):
        loaded.edit([DropExits()])
    with pytest.raises(InputError, match="exits already"):
        model.edit([AddExits()])


@pytest.mark.parametrize("direction", ["student_teacher", "teacher_student"])
def test_divergence_is_the_named_one(direction):
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    p, q = (student, teacher) if direction == "student_teacher" else (teacher, student)
    p, q = p.softmax(-1), q.softmax(-1)
    assert float(divergence(student, teacher, direction)) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    assert float(divergence(teacher, teacher, direction)) == pytest.approx(0, abs=1e-7)


def test_the_second_step_trains_the_exits_alone():
    model, batch = with_exits("bert"), tiny.batch("bert")
    model.network.requires_grad_(False)
    for leave in list(model.network.exits)[:-1]:
        leave.requires_grad_(True)
    exits_loss("student_teacher")(model.network, batch).backward()
    for name, parameter in model.network.named_parameters():
        trained = name.startswith(("exits.0", "exits.1", "exits.2"))
        if trained and not name.endswith("key.bias"):  # a constant over keys changes no softmax
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert trained or parameter.grad is None, name


def test_the_deepest_exit_teaches_and_is_not_taught():
    model, batch = with_exits("bert"), tiny.batch("bert")
    params = DeepToShallowDistillation(
        method="deep_to_shallow", feature_weight=1.0, loss={"alpha": 1.0, "mixing": "convex"}
    )
    model.network.train()
    torch.manual_seed(0)
    deep_loss(params, tiny.TASK)(model.network, batch).backward()
    gradient = model.network.exits[-1].classifier.weight.grad.clone()
    model.network.zero_grad()
    torch.manual_seed(0)
    alone = torch.nn.functional.cross_entropy(all_logits(model.network, batch)[-1], batch.targets)
    alone.backward()
    assert torch.allclose(model.network.exits[-1].classifier.weight.grad, gradient, atol=1e-6)


def test_operations_are_counted_as_executed():
    model = with_exits("bert")
    length, d, inner, size, labels = 9, 32, 48, 8, 3
    block = 2 * length * (4 * d * d + 2 * d * inner) + 2 * 2 * length * length * d
    leave = 2 * (length * (d * size + 2 * size * size) + 3 * size * size + 2 * length * size + size * labels)
    counted = flops_by_depth(model.network, [length, 3])
    assert counted[length] == [depth * (block + leave) for depth in (1, 2, 3, 4)] and counted[3][0] < counted[9][0]
    plain = tiny.model("bert")
    assert flops_by_depth(plain.network, [length]) == {length: [4 * block + 2 * d * d + 2 * d * labels]}


def test_attention_beyond_a_window_is_masked_and_so_counted():
    """Kernels compute whole products for local attention too; fused layers count as their parts."""
    length, d, inner, labels = 9, 32, 48, 3
    block = 2 * length * (4 * d * d + 3 * d * inner) + 2 * 2 * length * length * d
    counted = flops_by_depth(tiny.model("modernbert").network, [length])
    assert counted == {length: [4 * block + 2 * d * d + 2 * d * labels]}


def test_the_fastest_speed_that_costs_little_enough_is_chosen():
    tried = [
        TriedSpeed(speed=speed, dev_score=dev, milliseconds=ms)
        for speed, dev, ms in ((-1, 0.90, 3), (0.2, 0.895, 2), (0.5, 0.85, 1))
    ]
    assert choose(tried, 0.90, 0.02, ACCURACY) == 0.2
    assert choose(tried, 0.90, 0.10, ACCURACY) == 0.5
    assert choose(tried, 0.97, 0.02, ACCURACY) == -1  # none is good enough: the best


def test_a_speed_is_chosen_by_a_metric_that_is_better_when_lower():
    perplexity = Metric(name="perplexity", higher_is_better=False)
    tried = [
        TriedSpeed(speed=speed, dev_score=dev, milliseconds=ms)
        for speed, dev, ms in ((-1, 20.0, 3), (0.2, 20.5, 2), (0.5, 26.0, 1))
    ]
    assert choose(tried, 20.0, 0.05, perplexity) == 0.2  # 2.5 % worse; 26 is 30 % worse
    assert choose(tried, 15.0, 0.05, perplexity) == -1
