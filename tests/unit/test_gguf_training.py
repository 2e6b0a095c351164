"""Training for a type of GGUF file: the file holds what was trained, and loses less than by rounding."""

import copy

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

import lissom
from lissom.data.tables import Row, write_table
from lissom.errors import ParamsError
from lissom.gguf import encode
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.grid import block_types, is_on_grid, on_grid, settled
from lissom.gguf.proof import compare, torch_windows
from lissom.params import check_params
from lissom.quantize import gguf_grid
from lissom.quantize.config import GgufTraining, GgufTrainingParams
from lissom.quantize.gguf_grid import Grid
from lissom.quantize.plan import plan
from lissom.training.compress import compress
from lissom.training.config import RecoveryParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.teacher import LiveTeacher
from tests.unit.test_gguf import TASK, model_of
from tests.unit.test_language_modeling import TRAINING, tables_of

WINDOWS = [list(range(first, first + 12)) for first in range(260, 380, 6)]


def lesson_in(folder):
    tables = tables_of(folder)
    tables["transfer"] = write_table(folder / "more.arrow", [Row("good", None, None)] * 0)
    return Lesson(tables=tables, scratch=folder)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0, Kind.Q4_1, Kind.Q5_0])
def test_the_grid_is_a_fixed_point_and_passes_the_gradient(kind):
    weight = torch.randn(6, 64, requires_grad=True)
    rounded = Grid(kind)(weight)
    assert torch.equal(on_grid(rounded, kind), on_grid(weight, kind)) and is_on_grid(
        on_grid(weight, kind).numpy(), kind
    )
    assert not torch.equal(rounded, weight)
    upstream = torch.randn(6, 64)
    (gradient,) = torch.autograd.grad(rounded, weight, upstream)
    assert torch.equal(gradient, upstream)


@pytest.mark.parametrize("kind", [Kind.Q6_K, Kind.Q5_K, Kind.Q4_K, Kind.Q3_K, Kind.Q2_K])
def test_k_types_come_to_rest(kind):
    """Their encoders look for scales anew; what is kept of a training they find again."""
    weight = torch.randn(64, 512)
    near = on_grid(weight, kind)
    kept = settled(near, kind)
    assert is_on_grid(kept.numpy(), kind) and not is_on_grid(weight.numpy(), kind)
    assert float((on_grid(kept, kind) - kept).norm() / kept.norm()) < 2e-3
    assert float((kept - near).norm() / near.norm()) < 0.05


def test_a_rounded_weight_is_kept_until_the_weight_changes(monkeypatch):
    calls, real = [], gguf_grid.on_grid
    monkeypatch.setattr(gguf_grid, "on_grid", lambda *arguments: calls.append(1) or real(*arguments))
    weight, grid = torch.nn.Parameter(torch.randn(4, 64)), Grid(Kind.Q4_0)
    first = grid(weight).detach()
    assert torch.equal(grid(weight), first) and len(calls) == 1
    with torch.no_grad():
        weight.mul_(1.5)
    assert torch.equal(grid(weight), real(weight, Kind.Q4_0)) and len(calls) == 2
    assert torch.equal(copy.deepcopy(grid)(torch.nn.Parameter(weight.detach().clone())), grid(weight))


def test_threads_write_the_same_bytes(monkeypatch):
    weight = np.random.default_rng(0).standard_normal((37, 512)).astype(np.float32)
    importance = np.random.default_rng(1).random(512).astype(np.float32)
    for kind in (Kind.Q4_0, Kind.Q5_K):
        whole = encode.encode(weight, kind, importance)
        monkeypatch.setattr(encode, "_WORTH_A_THREAD", 1)
        monkeypatch.setattr(encode, "usable_cores", lambda: 5)
        assert np.array_equal(encode.encode(weight, kind, importance), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_every_product_of_the_blocks_has_the_files_type(family):
    model = model_of(family)
    types = block_types(model.network, FILE_TYPES["q4_0"])
    assert len(types) == 4 * (6 if family == "gpt2" else 7) and set(types.values()) <= {Kind.Q4_0, Kind.F16}


@pytest.mark.parametrize("importance", [False, True], ids=["plain", "importance"])
def test_the_file_holds_the_weights_that_were_trained(importance, tmp_path):
    model, lesson = model_of("llama", hidden_size=64, intermediate_size=96, head_dim=16), lesson_in(tmp_path)
    before = copy.deepcopy(model.network.state_dict())
    params = GgufTraining(
        method="gguf",
        type="q4_0",
        training=GgufTrainingParams(epochs=0.2, batch_size=8, learning_rate=1e-3, loss={"temperature": 1}),
    )
    result = compress(
        model,
        plan(model, lesson, params),
        lesson,
        LiveTeacher(model_of("llama", hidden_size=64, intermediate_size=96, head_dim=16).network),
        params.training,
    )
    assert result.metrics["layers"] == 28 and result.training is not None
    assert set(model.network.state_dict()) == set(before)  # a plain network again
    source = gguf_model(model)
    weights = (
        {name: np.full(tensor.shape[-1], 2.0, dtype=np.float32) for name, tensor in source.tensors.items()}
        if importance
        else None
    )
    types = write_gguf(source, tmp_path / "model.gguf", FILE_TYPES["q4_0"], weights)
    for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors:
        if tensor.name.startswith("blk.") and types[tensor.name] == Kind.Q4_0:
            assert np.array_equal(gguf.quants.dequantize(tensor.data, Kind.Q4_0), source.tensors[tensor.name])
    lissom.save(model, tmp_path / "saved")
    assert torch.equal(
        lissom.load(tmp_path / "saved").network.model.layers[0].mlp.up_proj.weight,
        model.network.model.layers[0].mlp.up_proj.weight,
    )


def test_importances_change_no_format_that_was_trained_for(tmp_path):
    """With importances, llama.cpp's mixture gives the first eighth of the blocks another format."""
    model, lesson = model_of("llama", hidden_size=64, intermediate_size=96, head_dim=16, num_hidden_layers=8), None
    recipe = plan(model, lesson, GgufTraining(method="gguf", type="q4_0", training=None))
    weights = {name: np.ones(tensor.shape[-1], dtype=np.float32) for name, tensor in gguf_model(model).tensors.items()}
    name = "blk.0.ffn_down.weight"
    assert write_gguf(gguf_model(model), tmp_path / "m.gguf", FILE_TYPES["q4_0"], weights)[name] == Kind.Q4_1
    recipe.calibrate(model)
    recipe.finish(model)
    assert write_gguf(gguf_model(model), tmp_path / "m.gguf", FILE_TYPES["q4_0"], weights)[name] == Kind.Q4_0
    stored = next(tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors if tensor.name == name)
    trained = model.network.model.layers[0].mlp.down_proj.weight.detach().numpy()
    assert np.array_equal(gguf.quants.dequantize(stored.data, Kind.Q4_0), trained)


def test_trained_for_its_type_a_model_loses_less_than_by_rounding(tmp_path):
    lesson = Lesson(tables=tables_of(tmp_path, (("train", 200), ("transfer", 0), ("dev", 24))), scratch=tmp_path)
    teacher = model_of("llama", hidden_size=256, intermediate_size=256, head_dim=64, num_hidden_layers=2)
    training = RecoveryParams(**TRAINING | {"epochs": 3, "learning_rate": 2e-3})
    lesson.train(
        "teacher", teacher.network, lesson.encode(teacher, "train"), teacher.pad_id, against_targets(TASK), training, identity="",
    )  # fmt: skip
    data = lesson.encode(teacher, "dev")
    windows = [data.tokens[a:b].tolist() for a, b in zip(data.offsets, data.offsets[1:], strict=False) if b - a > 3]
    reference = list(torch_windows(teacher.network, windows))
    student = copy.deepcopy(teacher)
    params = GgufTraining(
        method="gguf",
        type="q2_k",
        training=GgufTrainingParams(epochs=2, batch_size=8, learning_rate=1e-4, precision="float32"),
    )
    compress(student, plan(student, lesson, params), lesson, LiveTeacher(teacher.network), params.training)
    for name, model in (("rounded", teacher), ("trained", student)):
        write_gguf(gguf_model(model), tmp_path / f"{name}.gguf", FILE_TYPES["q2_k"])
    found = compare({name: tmp_path / f"{name}.gguf" for name in ("rounded", "trained")}, reference, 24, 1)
    assert found["trained"].mean_kl_divergence < 0.5 * found["rounded"].mean_kl_divergence


def test_params_that_do_not_go_together_are_refused():
    base = {"base": {"model": "dir:base", "max_length": 16}, "data": {"source": "files:data"}}
    none = {"method": "none"}
    language = {**base, "distill": none, "prune": none, "factorize": none}
    language["data"] = base["data"] | {"task": "language_modeling"}
    gguf_only = language | {"export": {"formats": ["onnx", "gguf"]}}
    translation = base | {"data": base["data"] | {"task": "translation"}, "distill": none, "prune": none}
    for params, message in (
        (
            translation | {"factorize": none, "quantize": none, "export": {"formats": ["onnx", "gguf"]}},
            r"data\.task is translation",
        ),
        (
            base | {"quantize": {"method": "int8"}, "export": {"formats": ["onnx", "gguf"]}},
            "a form that a GGUF file cannot express",
        ),
        (
            gguf_only | {"quantize": {"method": "int8", "training": {"loss": {"temperature": 1}}}},
            "a form that a GGUF file cannot express",
        ),
        (gguf_only | {"quantize": {"method": "gguf", "type": "q4_0"}}, r"q4_0 is not among export\.gguf\.types"),
        (language | {"quantize": {"method": "gguf"}}, r"set export\.formats: \[gguf\]"),
        (language | {"export": {"formats": []}, "quantize": none}, r"export\.formats"),
        (language | {"export": {"gguf": {"types": ["q4_0"]}}, "quantize": none}, "formats has no gguf"),
        (
            gguf_only | {"quantize": none, "export": {"formats": ["gguf"], "gguf": {"pooling": "cls"}}},
            r"gguf\.pooling is for",
        ),
        (base | {"quantize": none, "export": {"formats": ["gguf"], "gguf": {"system": "Hi."}}}, r"gguf\.system is for"),
        (
            gguf_only | {"quantize": none, "export": {"formats": ["gguf"], "gguf": {"max_kl_divergence": {"q2_k": 1}}}},
            r"q2_k is not among gguf\.types",
        ),
    ):
        with pytest.raises(ParamsError, match=message):
            check_params(params)
    check_params(gguf_only | {"quantize": {"method": "gguf", "type": "q8_0"}})
    check_params(base | {"quantize": none, "export": {"formats": ["gguf"]}})
