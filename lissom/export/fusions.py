"""Choosing the kernels that onnxruntime runs, by the operators of the graph; users open it with default options.

Measured kernel by kernel (docs/decisions.md): onnxruntime's fusion of a residual sum with the layer normalisation after
it is slower than the two kernels, and one kernel for an attention with its integer projections is faster than three.
"""

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from lissom.export.divisions import NORMS
from lissom.export.nodes import constants, integer, producers

_PRODUCT = "MatMulIntegerToFloat"


def choose_kernels(graph: GraphProto) -> None:
    """Rewrite the graph for the fastest kernels, in place; products of the same input must be joined before."""
    _keep_sums_apart(graph)
    _shorten_mask(graph)
    _fuse_integer_attention(graph)


def _keep_sums_apart(graph: GraphProto) -> None:
    """Write every sum that is normalised as `Sum`, which onnxruntime does not fuse into `SkipLayerNormalization`."""
    normalised = {node.input[0] for node in graph.node if node.op_type in NORMS}
    for node in graph.node:
        if node.op_type == "Add" and node.output[0] in normalised:
            node.op_type = "Sum"


def _shorten_mask(graph: GraphProto) -> None:
    """Take the padding mask of zeros and ones as integers directly; transformers makes it boolean in between."""
    written_by = producers(graph)
    inputs = {value.name for value in graph.input}
    for node in graph.node:
        before = written_by.get(node.input[0]) if node.op_type == "Cast" else None
        if before is None or before.op_type != "Cast" or _target(before) != TensorProto.BOOL:
            continue
        if before.input[0] in inputs and _target(node) in (TensorProto.INT32, TensorProto.INT64):
            node.input[0] = before.input[0]


def _fuse_integer_attention(graph: GraphProto) -> None:
    """Replace a joined integer product, the split of its output and the attention on the parts by `QAttention`."""
    values = constants(graph)
    written_by, shapes = producers(graph), _widths(values)
    for node in [node for node in graph.node if node.op_type == "MultiHeadAttention"]:
        split = written_by.get(node.input[0])
        product = written_by.get(split.input[0]) if split is not None and split.op_type == "Split" else None
        if split is None or product is None or not _is_whole(node, split, product, values):
            continue
        inputs = list(product.input)
        width = shapes[inputs[1]]
        if len(inputs) < 7:
            inputs.append(f"{split.input[0]}_bias")
            graph.initializer.append(numpy_helper.from_array(np.zeros(width, dtype=np.float32), inputs[6]))
        quantised, weight, scale, weight_scales, zero_point, weight_zero_points, bias = inputs
        heads = integer(node, "num_heads")
        fused = helper.make_node(
            "QAttention",
            [quantised, weight, bias, scale, weight_scales, node.input[4], zero_point, weight_zero_points],
            [node.output[0]],
            name=node.name, domain=product.domain, num_heads=heads, unidirectional=integer(node, "unidirectional"),
        )  # fmt: skip
        place = list(graph.node).index(node)
        graph.node.insert(place, fused)
        for old in (node, split, product):
            graph.node.remove(old)


def _is_whole(attention: NodeProto, split: NodeProto, product: NodeProto, values: Mapping[str, TensorProto]) -> bool:
    """Return whether one kernel computes the three nodes: equal widths, the usual scale, a mask, no other bias."""
    if product.op_type != _PRODUCT or list(attention.input[:3]) != list(split.output) or len(attention.input) != 5:
        return False
    widths = numpy_helper.to_array(values[split.input[1]]).tolist()
    usual = (widths[0] // integer(attention, "num_heads")) ** -0.5
    scale = next((attribute.f for attribute in attention.attribute if attribute.name == "scale"), usual)
    return bool(attention.input[4]) and len(set(widths)) == 1 and abs(scale - usual) < 1e-6 * usual


def _widths(values: Mapping[str, TensorProto]) -> dict[str, int]:
    return {name: tensor.dims[-1] for name, tensor in values.items() if tensor.dims}


def _target(cast: NodeProto) -> int:
    return integer(cast, "to")
