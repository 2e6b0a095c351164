"""Export to ONNX: dynamic batch and length, one kernel per attention, integer kernels where the model is quantised."""

import gc
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.artifacts import ONNX, SERVING, TOKENIZER, read_json, write_json, write_text
from lissom.errors import InputError
from lissom.export import attention, graph_file
from lissom.export.cached_attention import CachedDecoder, cache_shapes
from lissom.export.config import BEAMS
from lissom.export.early_exit import join_parts
from lissom.export.encoder_decoder import DecoderGraph, EncoderGraph, cross_shapes, names, past_shapes
from lissom.export.graph import tidy
from lissom.export.graph_file import files_of, save_graph
from lissom.export.kernels import count_kernels
from lissom.export.onnx_file import OnnxFile
from lissom.models.compressed import CompressedModel, input_names, logits_from
from lissom.models.exits import EmbeddingPart, has_early_exits, parts_of
from lissom.models.families import family_of
from lissom.models.generation import end_ids
from lissom.models.layers import computes_with_integers, converted
from lissom.models.patterned import has_patterns
from lissom.serving.folder import DECODER, file_digest
from lissom.storage import naming
from lissom.tasks.task import Task

FULL_DEPTH = -1.0
"""The speed at which no example leaves early."""

_OPSET = 21
_SAMPLE_SHAPE = (2, 7)  # at least 2: torch takes sizes 0 and 1 for constants


def export_onnx(model: CompressedModel, folder: Path, beams: int = BEAMS) -> OnnxFile:
    """Write `model.onnx`, the tokenizer and `serving.json` into a folder; the speed of exits is set to full depth.

    An encoder-decoder has a second graph, `decoder.onnx`, and writes with a beam of `beams` hypotheses.

    Raises:
        InputError: the model is quantised, but onnxruntime would not use any integer kernels.
    """
    task = model.manifest.task
    write_graph(model.network, folder / ONNX, task)
    model.tokenizer.no_padding()
    model.tokenizer.no_truncation()
    write_text(folder / TOKENIZER, model.tokenizer.to_str())
    serving: dict[str, Any] = {
        "format": "onnx",
        **task.serving(),
        "pad_id": model.pad_id,
        "inputs": [name for name in input_names(model.network) if not name.startswith("decoder_")],
        "answers_empty_texts": family_of(model.network).answers_empty_texts,
    }
    if has_early_exits(model.network):
        serving["speed"] = FULL_DEPTH
    if task.continues_texts or task.writes_texts:
        serving["end_ids"] = end_ids(model.network)
    if task.writes_texts:
        serving["beams"] = beams
    write_serving(folder, serving)
    onnx_file = OnnxFile(folder)
    if computes_with_integers(model.network) and not onnx_file.kernels():
        kernels = ", ".join(sorted(count_kernels(folder / ONNX)))
        raise InputError(
            f"{folder / ONNX}: the model is quantised, but no kernel computes with integers; found {kernels}"
        )
    return onnx_file


def write_serving(folder: Path, serving: Mapping[str, Any]) -> None:
    """Write serving.json with the digests of the graph and the tokenizer, which must be complete."""
    graphs = [path for name in (ONNX, DECODER) if (folder / name).exists() for path in files_of(folder / name)]
    digests = {name: file_digest(folder / name) for name in (*(path.name for path in graphs), TOKENIZER)}
    write_json(folder / SERVING, {**serving, "sha256": digests})


def set_speed(folder: Path, speed: float) -> None:
    """Set the default speed of an exported model with exits."""
    write_json(folder / SERVING, read_json(folder / SERVING) | {"speed": speed})


def write_graph(network: PreTrainedModel, path: Path, task: Task) -> None:
    """Trace the network and write its simplified graph, with one kernel per attention and with early exit.

    Args:
        network: the network; not changed.
        path: path of the ONNX file.
        task: says how long an input may be, and whether texts are continued, which takes a cache.
    """
    if task.continues_texts:
        _write_decoder(CachedDecoder(converted(network), cache_shapes(network)), path, task.max_length)
        return
    if task.writes_texts:
        _write_encoder_decoder(network, path, task.max_length)
        return
    network, max_length = converted(network), task.max_length
    if family_of(network).attention_function:
        network.set_attn_implementation(attention.NAME)
    if has_early_exits(network):
        embed, *steps = trace_parts(network, max_length)
        save_graph(join_parts(embed, steps, network.config.num_labels), path)
        return
    write_plain_graph(network, path, max_length)
    model = onnx.load(path)
    tidy(model.graph)
    save_graph(model, path)


def _write_decoder(decoder: CachedDecoder, path: Path, max_length: int) -> None:
    """Write the graph of a language model with its cache."""
    batch = torch.export.Dim("batch")
    tokens, past, total = (torch.export.Dim(name, max=max_length) for name in ("tokens", "past", "total"))
    size, (length, before) = _SAMPLE_SHAPE[0], (_SAMPLE_SHAPE[1], 3)
    ids = torch.ones(size, length, dtype=torch.int64)
    mask = torch.ones(size, before + length, dtype=torch.int64)
    caches = [
        torch.zeros(size, heads, before, width) for heads, width in decoder.cache_shapes for _ in ("key", "value")
    ]
    shapes = ({0: batch, 1: tokens}, {0: batch, 1: total}, tuple({0: batch, 2: past} for _ in caches))
    export_module(decoder, (ids, mask, *caches), shapes, decoder.input_names(), decoder.output_names(), path)
    model = onnx.load(path)
    tidy(model.graph)
    save_graph(model, path)


def _write_encoder_decoder(network: PreTrainedModel, path: Path, max_length: int) -> None:
    """Write the graph of the encoder, and beside it that of the decoder with its caches."""
    cross, past = cross_shapes(network), past_shapes(network)
    network, size, (length, before) = converted(network), _SAMPLE_SHAPE[0], (_SAMPLE_SHAPE[1], 3)
    batch = torch.export.Dim("batch")
    read, written, cached = (torch.export.Dim(name, max=max_length) for name in ("read", "written", "past"))
    ids, mask = (torch.ones(size, length, dtype=torch.int64) for _ in range(2))
    texts: list[Any] = [torch.zeros(size, heads, length, width) for heads, width in cross for _ in range(2)]
    tokens = [torch.zeros(size, heads, before, width) for heads, width in past for _ in range(2)]
    of_texts, of_past = names("cross", len(cross)), names("past", len(past))
    export_module(
        EncoderGraph(network, cross), (ids, mask), ({0: batch, 1: read}, {0: batch, 1: read}),
        ["input_ids", "attention_mask"], of_texts, path,
    )  # fmt: skip
    caches = tuple([{0: batch, 2: read} for _ in texts] + [{0: batch, 2: cached} for _ in tokens])
    target = torch.ones(size, length - 2, dtype=torch.int64)
    export_module(
        DecoderGraph(network), (target, mask, *texts, *tokens), ({0: batch, 1: written}, {0: batch, 1: read}, caches),
        ["decoder_input_ids", "attention_mask", *of_texts, *of_past], ["logits", *names("present", len(past))],
        path.with_name(DECODER),
    )  # fmt: skip
    for file in (path, path.with_name(DECODER)):
        model = onnx.load(file)
        tidy(model.graph)
        save_graph(model, file)


def write_plain_graph(network: PreTrainedModel, path: Path, max_length: int) -> None:
    """Trace the network and write the graph of torch's exporter unchanged; arguments as for `write_graph`."""
    network.config.use_cache = False
    inputs = input_names(network)
    sample = tuple(torch.ones(_sample_shape(network, max_length), dtype=torch.int64) for _ in inputs)
    _trace(_LogitsOnly(network, inputs), sample, inputs, ["logits"], path, max_length)


def trace_parts(network: PreTrainedModel, max_length: int) -> list[onnx.ModelProto]:
    """Return simplified graphs of the parts of a network with exits: embeddings, then every block with its exit."""
    network.config.use_cache = False
    embed, steps = parts_of(network)
    inputs = input_names(network)
    shape = _sample_shape(network, max_length)
    ids = tuple(torch.ones(shape, dtype=torch.int64) for _ in inputs)
    block_inputs = (torch.randn(*shape, network.config.hidden_size), ids[0])
    parts: list[tuple[nn.Module, tuple[Tensor, ...], list[str], list[str]]] = [(embed, ids, inputs, ["hidden"])]
    parts += [(step, block_inputs, ["hidden", "attention_mask"], ["hidden_out", "logits"]) for step in steps]
    models = []
    with tempfile.TemporaryDirectory() as folder:
        for module, sample, feeds, outputs in parts:
            path = Path(folder) / ONNX
            _trace(module, sample, feeds, outputs, path, max_length)
            model = onnx.load(path)
            tidy(model.graph)
            models.append(model)
    return models


def _sample_shape(network: PreTrainedModel, max_length: int) -> tuple[int, int]:
    """Return the shape of the inputs to trace with.

    A group of tokens that is as long as the sample would be taken for the only one of any input; the longest input has
    several of all groups that any input has several of.
    """
    return (_SAMPLE_SHAPE[0], max_length) if has_patterns(network) else _SAMPLE_SHAPE


def _trace(
    module: nn.Module, sample: tuple[Tensor, ...], inputs: list[str], outputs: list[str], path: Path, max_length: int
) -> None:
    """Trace a module whose inputs are all `[batch, n, ...]`, and write its graph."""
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=max_length)
    shapes: tuple[Any, ...] = tuple({0: batch, 1: tokens} for _ in inputs)
    if isinstance(module, _LogitsOnly | EmbeddingPart):
        shapes = (shapes,)
    export_module(module, sample, shapes, inputs, outputs, path)


def export_module(
    module: nn.Module,
    sample: tuple[Tensor, ...],
    shapes: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    path: Path,
) -> None:
    """Trace a module and write the graph of torch's exporter.

    Args:
        module: the module.
        sample: inputs to trace with.
        shapes: which dimensions of the inputs are of any size, as `torch.export.export` takes them.
        inputs: names of the inputs.
        outputs: names of the outputs.
        path: path of the ONNX file.
    """
    # The exporter warns about its own deprecations and about optional packages that are not used here.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), _no_garbage_collection(), torch.no_grad():  # a scan with gradients is no Scan
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            sample,
            dynamo=True,
            opset_version=_OPSET,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    assert program is not None
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    with naming(path):
        program.save(str(path), external_data=size > graph_file.LARGEST)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spare a sixth of a trace's time, in which the collector would look at torch's objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _LogitsOnly(nn.Module):
    def __init__(self, network: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        return logits_from(self.network, dict(zip(self.names, inputs, strict=True)))
