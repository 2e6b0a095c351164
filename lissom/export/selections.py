"""Computing only the tokens that are read.

A classifier reads the last block's vector of one token, [CLS]. What comes after that block's attention treats every
token alone, so that it need be computed for this token only: the selection moves before it.
"""

from collections.abc import Mapping

from onnx import GraphProto, NodeProto, helper

from lissom.export.divisions import NORMS
from lissom.export.nodes import array, constants, integer, readers, reads

_OF_ALL = ("Add", "Sum", "Sub", "Mul", "Div")
"""Element by element; every input may have tokens."""
_OF_FIRST = (
    *NORMS, "MatMul", "MatMulIntegerToFloat", "MatMulNBits", "QuantizeLinear", "DequantizeLinear",
    "Gelu", "Erf", "Relu", "Tanh", "Sigmoid", "Sqrt", "Cast", "Split",
)  # fmt: skip
"""Token by token over the last axis; only the first input may have tokens."""
_LAST_AXIS = -1
_TOKENS = 1


def select_early(graph: GraphProto) -> None:
    """Move every selection of the first token as far up as what is before it treats tokens alone, in place.

    A node moves behind the selection if nothing else reads its outputs. Sums of a token's vector with a constant vector
    move, those with a table of positions do not.
    """
    for selection in [node for node in graph.node if _selects_first(node, graph)]:
        _move_up(selection, graph)


def _selects_first(node: NodeProto, graph: GraphProto) -> bool:
    if node.op_type != "Gather" or integer(node, "axis") != _TOKENS:
        return False
    index = constants(graph).get(node.input[1])
    # Tensors that are broadcast along tokens have no other one than the first.
    return index is not None and not index.dims and not array(index).any()


def _move_up(selection: NodeProto, graph: GraphProto) -> None:
    ranks = _ranks(graph)
    varying = _varying(graph)
    behind = _behind(selection, graph, ranks, varying)
    if not behind:
        return
    produced = {name for node in behind for name in node.output}
    selected: dict[str, str] = {}
    for node in behind:
        for place, name in enumerate(node.input):
            if name not in varying or name in produced:
                continue
            if name not in selected:
                selected[name] = f"{name}_of_{selection.output[0]}"
                gather = helper.make_node("Gather", [name, selection.input[1]], [selected[name]], axis=_TOKENS)
                graph.node.insert(list(graph.node).index(node), gather)
            node.input[place] = selected[name]
    renamed = {selection.input[0]: selection.output[0]}
    for node in behind:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    graph.node.remove(selection)
    kept = [value for value in graph.value_info if value.name not in produced]  # they have one dimension less now
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _behind(selection: NodeProto, graph: GraphProto, ranks: Mapping[str, int], varying: set[str]) -> list[NodeProto]:
    """Return the nodes that may be computed for the selected token alone, in the graph's order."""
    read_by = readers(graph)
    outputs = {value.name for value in graph.output}
    behind: list[NodeProto] = []
    selected = {selection.output[0]}
    for node in reversed(graph.node):  # nodes are in topological order
        reading = [reader for name in node.output for reader in read_by.get(name, [])]
        if not reading or outputs.intersection(node.output):
            continue
        if all(reader.output[0] in selected for reader in reading) and _by_token(node, ranks, varying):
            behind.insert(0, node)
            selected.add(node.output[0])
    return behind


def _by_token(node: NodeProto, ranks: Mapping[str, int], varying: set[str]) -> bool:
    """Return whether a node treats tokens alone, so that its inputs `[batch, n, ...]` may become `[batch, ...]`."""
    if node.op_type in _OF_ALL:
        return all(ranks.get(name) == 3 if name in varying else ranks.get(name, 3) <= 1 for name in node.input)
    first, *others = node.input
    if node.op_type not in _OF_FIRST or first not in varying or ranks.get(first) != 3 or varying.intersection(others):
        return False
    if node.op_type == "MatMul":
        return ranks.get(others[0]) == 2
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return ranks.get(others[0]) == 0
    if node.op_type == "Split":
        return integer(node, "axis") == _LAST_AXIS
    return integer(node, "axis", _LAST_AXIS) == _LAST_AXIS


def _ranks(graph: GraphProto) -> dict[str, int]:
    """Return the number of dimensions of every tensor that is known."""
    values = (*graph.value_info, *graph.input)
    known = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    return known | {tensor.name: len(tensor.dims) for tensor in graph.initializer}


def _varying(graph: GraphProto) -> set[str]:
    """Return the names of the tensors that depend on the graph's inputs."""
    names = {value.name for value in graph.input}
    for node in graph.node:
        if names.intersection(reads(node)):
            names.update(node.output)
    return names
