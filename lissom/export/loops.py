"""Loops over groups of queries: written as `Loop`, and with as little work in every turn as possible.

torch exports them as `Scan`; in OpenVINO the body of a `Loop`, too, may read tensors of the graph around.
"""

from collections.abc import Container

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from lissom.export.nodes import array, bodies, constants, integer, producers, readers, reads


def write_loops(graph: GraphProto) -> None:
    """Replace every `Scan` along first axes by a `Loop`, in place.

    What is the same in every turn is computed before the loop, and rows at consecutive places are copied at once.
    """
    for node in [node for node in graph.node if node.op_type == "Scan"]:
        place = list(graph.node).index(node)
        graph.node.remove(node)
        count = helper.make_node("Shape", [node.input[-1]], [f"{node.output[-1]}_count"], start=0, end=1)
        loop = _loop(node, count.output[0], readers(graph).keys())
        before = [count, *_cut_out(loop, graph), *_taken_out(loop)]
        for offset, new in enumerate([*before, loop]):
            graph.node.insert(place + offset, new)


def _loop(scan: NodeProto, count: str, wanted: Container[str]) -> NodeProto:
    """Return the loop of `count` turns; its body looks up its part of what is scanned.

    torch scans with a state. One that turns only pass on, and whose last value is not `wanted`, is left out.
    """
    (body,) = bodies(scan)
    states, read_by = len(scan.input) - integer(scan, "num_scan_inputs"), readers(body)

    def is_used(place: int) -> bool:
        passes_on = [(n.op_type, n.output[0]) for n in read_by.get(body.input[place].name, [])]
        return scan.output[place] in wanted or passes_on != [("Identity", body.output[place].name)]

    kept = [place for place in range(states) if is_used(place)]
    left_out = {body.output[place].name for place in range(states) if place not in kept}
    turn, go_on, goes_on = (f"{scan.output[-1]}_{part}" for part in ("turn", "go_on", "goes_on"))
    parts = [
        helper.make_node("Gather", [whole, turn], [part.name], axis=0)
        for whole, part in zip(scan.input[states:], body.input[states:], strict=True)
    ]
    inputs = [
        helper.make_tensor_value_info(turn, TensorProto.INT64, []),
        helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
        *(body.input[place] for place in kept),
    ]
    work = [node for node in body.node if left_out.isdisjoint(node.output)]
    nodes = [*parts, *work, helper.make_node("Identity", [go_on], [goes_on])]
    results = [*kept, *range(states, len(body.output))]
    outputs = [helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []), *(body.output[place] for place in results)]
    turns = helper.make_graph(nodes, body.name, inputs, outputs, body.initializer, value_info=body.value_info)
    first = [scan.input[place] for place in kept]
    written = [scan.output[place] for place in results]
    return helper.make_node("Loop", [count, "", *first], written, name=scan.name, body=turns)


def _cut_out(loop: NodeProto, graph: GraphProto) -> list[NodeProto]:
    """Replace lookups of rows at `first + range(width)` by slices; return the nodes of the graph around for them."""
    (body,) = bodies(loop)
    outside, inside, values = producers(graph), producers(body), constants(graph)
    around: list[NodeProto] = []
    ends: dict[tuple[str, str], str] = {}
    for node in [node for node in body.node if node.op_type == "Gather"]:
        places = inside.get(node.input[1])
        while places is not None and places.op_type == "Reshape":  # to one axis, which it has
            places = inside.get(places.input[0])
        if places is None or places.op_type != "Add":
            continue
        first, steps = places.input[0], outside.get(places.input[1])
        if not _is_first(inside.get(first), values) or not _counts_up(steps, values):
            continue
        assert steps is not None
        name, width = f"{loop.output[0]}_{node.output[0]}", steps.input[1]
        if (first, width) not in ends:
            end = ends[first, width] = f"{name}_end"
            around.append(helper.make_node("Reshape", [width, f"{name}_flat"], [f"{name}_width"]))
            graph.initializer.append(numpy_helper.from_array(np.asarray([-1]), f"{name}_flat"))
            body.node.insert(list(body.node).index(node), helper.make_node("Add", [first, f"{name}_width"], [end]))
        graph.initializer.append(numpy_helper.from_array(np.asarray([integer(node, "axis")]), f"{name}_axis"))
        inputs = [node.input[0], first, ends[first, width], f"{name}_axis"]
        node.CopyFrom(helper.make_node("Slice", inputs, list(node.output)))
    return around


def _is_first(node: NodeProto | None, values: dict[str, TensorProto]) -> bool:
    """Return whether a node cuts out the first entry, `[1]`."""
    if node is None or node.op_type != "Slice" or not all(name in values for name in node.input[1:]):
        return False
    return [array(values[name]).tolist() for name in node.input[1:]] in ([[0], [1], [0]], [[0], [1], [0], [1]])


def _counts_up(node: NodeProto | None, values: dict[str, TensorProto]) -> bool:
    """Return whether a node is a range from 0 in steps of 1."""
    if node is None or node.op_type != "Range" or not {node.input[0], node.input[2]} <= values.keys():
        return False
    return (int(array(values[node.input[0]])), int(array(values[node.input[2]]))) == (0, 1)


def _taken_out(loop: NodeProto) -> list[NodeProto]:
    """Take the nodes out of a loop's body that read nothing of it, and return them in order."""
    (body,) = bodies(loop)
    varying = {value.name for value in (*body.input, *body.initializer)}
    results = {value.name for value in body.output}
    taken: list[NodeProto] = []
    names: dict[str, str] = {}
    for node in list(body.node):
        node.input[:] = [names.get(name, name) for name in node.input]
        if varying.isdisjoint(reads(node)) and results.isdisjoint(node.output):
            body.node.remove(node)
            # Bodies of other loops may have the same names.
            names |= {name: f"{loop.output[0]}_{name}" for name in node.output}
            node.output[:] = [names[name] for name in node.output]
            taken.append(node)
        else:
            varying.update(node.output)
    return taken
