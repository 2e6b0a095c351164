"""Early exit as a single ONNX graph, with the speed as an input.

Every block with its exit is traced separately and becomes the body of an `If` nested in the previous one: uncertain
rows are selected (`Compress`), run through the block, and their logits written back (`ScatterND`). Skipped blocks are
not executed, and the logits of an example do not depend on the other examples of the batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, compose, helper, numpy_helper

SPEED, LOGITS, DEPTH = "speed", "logits", "depth"


@dataclass(frozen=True)
class _State:
    """Names of the tensors that one block passes to the next."""

    hidden: str
    """`[active, n, d]`"""
    mask: str
    """`[active, n]`"""
    active: str
    """Rows of the batch that have not left yet, `[active]`."""
    logits: str
    """`[batch, labels]`"""
    depth: str
    """Number of blocks executed per example, `[batch]`."""


def join_parts(embed: onnx.ModelProto, steps: list[onnx.ModelProto], labels: int) -> onnx.ModelProto:
    """Join the traced parts of a network into one graph.

    Args:
        embed: maps the network's inputs `[batch, n]` to `hidden`.
        steps: one graph per block, which maps `hidden` and `attention_mask` to `hidden_out` and `logits`.
        labels: number of labels.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(embed)
    body = graph.graph
    nodes, initializers = list(body.node), list(body.initializer)
    initializers += [
        _constant("zero", np.int64(0)),
        _constant("one", np.int64(1)),
        _constant("last_axis", np.array([-1], dtype=np.int64)),
        _constant("first_axis", np.array([0], dtype=np.int64)),
        _constant("entropy_scale", np.float32(-1 / math.log(labels))),
        _constant("certain", np.float32(0)),
        _constant("uncertain", np.float32(1)),
    ]
    first, more = _inline(steps[0], 0, "hidden", "attention_mask")
    nodes += first
    initializers += more
    nodes += [
        helper.make_node("Shape", ["attention_mask"], ["batch_shape"], start=0, end=1),
        helper.make_node("Squeeze", ["batch_shape", "first_axis"], ["batch_size"]),
        helper.make_node("Range", ["zero", "batch_size", "one"], ["rows"]),
        helper.make_node("Expand", ["one", "batch_shape"], ["first_depth"]),
    ]
    state = _State(_of(0, "hidden_out"), "attention_mask", "rows", _of(0, "logits"), "first_depth")
    nodes += _remaining_blocks(steps, 1, state, _of(0, "logits"), LOGITS, DEPTH)
    joined_graph = helper.make_graph(
        nodes,
        "early_exit",
        [*body.input, helper.make_tensor_value_info(SPEED, TensorProto.FLOAT, [])],
        [
            helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", labels]),
            helper.make_tensor_value_info(DEPTH, TensorProto.INT64, ["batch"]),
        ],
        initializers,
    )
    body.CopyFrom(joined_graph)
    return graph


def _remaining_blocks(
    steps: list[onnx.ModelProto], number: int, state: _State, exit_logits: str, logits: str, depth: str
) -> list[NodeProto]:
    """Return the nodes that run block `number` and all later ones on the rows whose `exit_logits` are uncertain."""

    def name(part: str) -> str:
        return _of(number, part)

    if number == len(steps):
        return [
            helper.make_node("Identity", [state.logits], [logits]),
            helper.make_node("Identity", [state.depth], [depth]),
        ]
    block, initializers = _inline(steps[number], number, name("left_hidden"), name("left_mask"))
    step_logits = name("logits")
    after = _State(
        _of(number, "hidden_out"), name("left_mask"), name("left"), name("merged_logits"), name("merged_depth")
    )
    body = [
        helper.make_node("Compress", [state.hidden, name("stay")], [name("left_hidden")], axis=0),
        helper.make_node("Compress", [state.mask, name("stay")], [name("left_mask")], axis=0),
        helper.make_node("Compress", [state.active, name("stay")], [name("left")], axis=0),
        *block,
        helper.make_node("Unsqueeze", [name("left"), "last_axis"], [name("places")]),
        helper.make_node("ScatterND", [state.logits, name("places"), step_logits], [name("merged_logits")]),
        helper.make_node("Shape", [name("left")], [name("left_shape")]),
        helper.make_node("Expand", [name("number"), name("left_shape")], [name("deeper")]),
        helper.make_node("ScatterND", [state.depth, name("places"), name("deeper")], [name("merged_depth")]),
        *_remaining_blocks(steps, number + 1, after, step_logits, name("then_logits"), name("then_depth")),
    ]
    initializers.append(_constant(name("number"), np.array([number + 1], dtype=np.int64)))
    stop = [
        helper.make_node("Identity", [state.logits], [name("else_logits")]),
        helper.make_node("Identity", [state.depth], [name("else_depth")]),
    ]
    return [
        helper.make_node("Softmax", [exit_logits], [name("p")], axis=-1),
        helper.make_node("LogSoftmax", [exit_logits], [name("log_p")], axis=-1),
        helper.make_node("Mul", [name("p"), name("log_p")], [name("p_log_p")]),
        helper.make_node("ReduceSum", [name("p_log_p"), "last_axis"], [name("negative_entropy")], keepdims=0),
        helper.make_node("Mul", [name("negative_entropy"), "entropy_scale"], [name("entropy")]),
        helper.make_node("Clip", [name("entropy"), "certain", "uncertain"], [name("uncertainty")]),
        helper.make_node("Greater", [name("uncertainty"), SPEED], [name("stay")]),
        helper.make_node("Cast", [name("stay")], [name("stay_number")], to=TensorProto.INT32),
        helper.make_node("ReduceMax", [name("stay_number")], [name("any_number")], keepdims=0),
        helper.make_node("Cast", [name("any_number")], [name("any")], to=TensorProto.BOOL),
        helper.make_node(
            "If",
            [name("any")],
            [logits, depth],
            then_branch=_branch(name("then"), body, name("then_logits"), name("then_depth"), initializers),
            else_branch=_branch(name("else"), stop, name("else_logits"), name("else_depth"), []),
        ),
    ]


def _branch(
    name: str, nodes: list[NodeProto], logits: str, depth: str, initializers: list[TensorProto]
) -> onnx.GraphProto:
    outputs = [
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, None),
        helper.make_tensor_value_info(depth, TensorProto.INT64, None),
    ]
    return helper.make_graph(nodes, name, [], outputs, initializers)


def _inline(step: onnx.ModelProto, number: int, hidden: str, mask: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return nodes and weights of a block, with prefixed names, and with `hidden` and `mask` as its inputs."""
    # Bodies of loops read initializers, too, which are not renamed there unless they are named beforehand.
    read = {tensor.name: _of(number, tensor.name) for tensor in step.graph.initializer}
    prefixed = compose.add_prefix_graph(step.graph, _of(number, ""), name_map=read)
    renames = {_of(number, "hidden"): hidden, _of(number, "attention_mask"): mask}
    for node in prefixed.node:
        node.input[:] = [renames.get(name, name) for name in node.input]
    return list(prefixed.node), list(prefixed.initializer)


def _of(number: int, name: str) -> str:
    return f"block{number}/{name}"


def _constant(name: str, value: np.generic | np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)
