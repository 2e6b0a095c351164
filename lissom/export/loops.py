"""Writing what torch exports as `Scan` as `Loop`: in OpenVINO, too, its bodies may read tensors of the graph around."""

from onnx import GraphProto, NodeProto, TensorProto, helper

from lissom.export.nodes import bodies, integer


def write_loops(graph: GraphProto) -> None:
    """Replace every `Scan` along first axes by a `Loop`, in place."""
    for node in [node for node in graph.node if node.op_type == "Scan"]:
        place = list(graph.node).index(node)
        graph.node.remove(node)
        count = helper.make_node("Shape", [node.input[-1]], [f"{node.output[0]}_count"], start=0, end=1)
        for offset, new in enumerate((count, _loop(node, count.output[0]))):
            graph.node.insert(place + offset, new)


def _loop(scan: NodeProto, count: str) -> NodeProto:
    """Return the loop of `count` turns; its body looks up its part of what is scanned."""
    (body,) = bodies(scan)
    states = len(scan.input) - integer(scan, "num_scan_inputs")
    turn, go_on, goes_on = (f"{scan.output[0]}_{part}" for part in ("turn", "go_on", "goes_on"))
    parts = [
        helper.make_node("Gather", [whole, turn], [part.name], axis=0)
        for whole, part in zip(scan.input[states:], body.input[states:], strict=True)
    ]
    inputs = [
        helper.make_tensor_value_info(turn, TensorProto.INT64, []),
        helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
        *body.input[:states],
    ]
    nodes = [*parts, *body.node, helper.make_node("Identity", [go_on], [goes_on])]
    outputs = [helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []), *body.output]
    turns = helper.make_graph(nodes, body.name, inputs, outputs, body.initializer, value_info=body.value_info)
    return helper.make_node("Loop", [count, "", *scan.input[:states]], list(scan.output), name=scan.name, body=turns)
