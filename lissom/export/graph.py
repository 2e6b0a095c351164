"""Simplifying an exported graph, to reduce the number of kernels per call.

The network reshapes its projections into heads, and the attention kernel takes them concatenated; the exporter keeps
both reshapes, with shapes that are computed at run time. They are removed, and products of the same input are merged.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from lissom.export.divisions import fold_divisions
from lissom.export.fusions import choose_kernels
from lissom.export.lookups import simplify_lookups
from lissom.export.loops import write_loops
from lissom.export.nodes import bodies, constants, producers, reads
from lissom.export.packing import pack_integers, pack_operands
from lissom.export.selections import select_early

Shape = tuple[str | int, ...]


def tidy(graph: GraphProto) -> None:
    """Remove metadata, redundant reshapes and unused nodes, merge integer products, choose kernels; in place."""
    _forget_sources(graph)
    write_loops(graph)
    _cancel_round_trips(graph)
    _share_quantisers(graph)
    _drop_unused(graph)  # what reads a value no longer must not count as its reader
    fold_divisions(graph)
    _join_products(graph)
    choose_kernels(graph)
    simplify_lookups(graph)
    _drop_unused(graph)
    select_early(graph)
    pack_operands(graph)
    pack_integers(graph)


def _forget_sources(graph: GraphProto) -> None:
    """Remove what the exporter stores in every node: stack traces, with paths of this machine."""
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for body in bodies(node):
            _forget_sources(body)
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        value.ClearField("metadata_props")
    del graph.metadata_props[:]


def _cancel_round_trips(graph: GraphProto) -> None:
    """Replace every tensor that equals an earlier one, up to reshapes and transposes that cancel, by that one."""
    written_by = producers(graph)
    shapes = {value.name: shape for value in (*graph.value_info, *graph.input) if (shape := _shape(value)) is not None}
    replacements: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Reshape":
            source = _origin(node, written_by, shapes)
            if source is not None:
                replacements[node.output[0]] = source
    for node in graph.node:
        node.input[:] = [replacements.get(name, name) for name in node.input]


def _origin(node: NodeProto, written_by: dict[str, NodeProto], shapes: dict[str, Shape]) -> str | None:
    """Return the earliest input of a chain ending in a Reshape that has its output's shape and order of elements."""
    shape, origin = shapes.get(node.output[0]), None
    pending: Sequence[int] = ()  # a permutation whose inverse has not been reached yet
    current: NodeProto | None = node
    while shape is not None and current is not None and current.op_type in ("Reshape", "Transpose"):
        if current.op_type == "Transpose":
            permutation = next(list(attribute.ints) for attribute in current.attribute if attribute.name == "perm")
            if pending and [pending[place] for place in permutation] != sorted(pending):
                break
            pending = () if pending else permutation
        elif pending:
            break
        name = current.input[0]
        if not pending and shapes.get(name) == shape:
            origin = name
        current = written_by.get(name)
    return origin


def _share_quantisers(graph: GraphProto) -> None:
    """Let products of the same tensor read the same quantised one, where scales, zero points and divisors are."""
    values = constants(graph)

    def identity(name: str) -> bytes | str:
        return numpy_helper.to_array(values[name]).tobytes() if name in values else name

    first: dict[tuple[bytes | str, ...], NodeProto] = {}
    replacements: dict[str, str] = {}
    for node in graph.node:  # in topological order
        node.input[:] = [replacements.get(name, name) for name in node.input]
        if node.op_type in ("Div", "QuantizeLinear", "DynamicQuantizeLinear"):
            twin = first.setdefault((node.op_type, node.input[0], *map(identity, node.input[1:])), node)
            replacements |= zip(node.output, twin.output, strict=True)


def _join_products(graph: GraphProto) -> None:
    """Merge integer products of the same quantised tensor (query, key and value) into one."""
    values = constants(graph)
    groups: dict[tuple[str, int], list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            groups.setdefault((node.input[0], len(node.input)), []).append(node)
    for first, *siblings in groups.values():
        if not siblings:
            continue
        parts = [first, *siblings]
        name = f"{first.output[0]}_joined"
        inputs = list(first.input)
        widths = [numpy_helper.to_array(values[node.input[3]]).size for node in parts]
        for place in [1, 3, *range(5, len(inputs))]:  # weight [in, out], its scales, its zero points, the bias
            tensor = np.concatenate([numpy_helper.to_array(values[node.input[place]]) for node in parts], axis=-1)
            inputs[place] = f"{name}_{place}"
            graph.initializer.append(numpy_helper.from_array(tensor, inputs[place]))
        sizes = numpy_helper.from_array(np.asarray(widths, dtype=np.int64), f"{name}_sizes")
        graph.initializer.append(sizes)
        outputs = [node.output[0] for node in parts]
        product = helper.make_node(first.op_type, inputs, [name], domain=first.domain)
        split = helper.make_node("Split", [name, sizes.name], outputs, axis=-1)
        place = list(graph.node).index(first)
        for node in parts:
            graph.node.remove(node)
        graph.node.insert(place, product)
        graph.node.insert(place + 1, split)


def _drop_unused(graph: GraphProto) -> None:
    live = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):  # nodes are in topological order
        if live.intersection(node.output):
            live.update(reads(node))
            nodes.append(node)
            for body in bodies(node):
                _drop_unused(body)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    for values in (graph.initializer, graph.value_info):
        live_values = [value for value in values if value.name in live]
        del values[:]
        values.extend(live_values)


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    dims = value.type.tensor_type.shape.dim
    shape = tuple(dim.dim_param or dim.dim_value for dim in dims)
    return shape if all(shape) else None
