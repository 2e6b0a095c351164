"""Moving the divisions of smoothed inputs (SmoothQuant, Xiao et al. 2023, §4) into what computes these inputs.

A norm's weights, the scales of an integer product behind an attention or a gate: where only the division reads the
result, they are divided once, in the file. What is read by a residual sum too keeps its division.
"""

from collections import Counter

from onnx import GraphProto, NodeProto, numpy_helper

from lissom.export.nodes import constants, producers, reads

NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
_PRODUCT, _SCALES, _BIAS = "MatMulIntegerToFloat", 3, 6


def fold_divisions(graph: GraphProto) -> None:
    """Fold every division by a constant vector for which it is possible, in place; equal ones must be shared before."""
    values, written_by = constants(graph), producers(graph)
    uses = Counter(name for node in graph.node for name in reads(node))
    uses.update(value.name for value in graph.output)
    folded = []
    for node in graph.node:
        if node.op_type != "Div" or node.input[1] not in values or len(values[node.input[1]].dims) != 1:
            continue
        source = written_by.get(node.input[0])
        operands = _operands(source, written_by, uses, tuple(values)) if uses[node.input[0]] == 1 else None
        if source is None or operands is None:
            continue
        owner, places = operands
        divisors = numpy_helper.to_array(values[node.input[1]])
        tensors = {place: numpy_helper.to_array(values[owner.input[place]]) for place in places}
        if any(tensor.shape != divisors.shape for tensor in tensors.values()):
            continue
        for place, tensor in tensors.items():
            divided, name = (tensor / divisors).astype(tensor.dtype), f"{node.output[0]}_divided_{place}"
            graph.initializer.append(numpy_helper.from_array(divided, name))
            owner.input[place] = name
        source.output[0] = node.output[0]
        folded.append(node)
    for node in folded:
        graph.node.remove(node)


def _operands(
    source: NodeProto | None, written_by: dict[str, NodeProto], uses: Counter[str], known: tuple[str, ...]
) -> tuple[NodeProto, list[int]] | None:
    """Return the node and its constant inputs by which an output of `source` is divided; None if there is none."""
    if source is None:
        return None
    if source.op_type in NORMS:
        return source, list(range(1, len(source.input)))
    if source.op_type == "Mul":
        for place, name in enumerate(source.input):
            if name in known:
                return source, [place]
    linear = source.input[2:3] if source.op_type == "MultiHeadAttention" else source.input
    for name in linear if source.op_type in ("Mul", "MultiHeadAttention") else ():
        product = written_by.get(name)
        if product is not None and product.op_type == _PRODUCT and uses[name] == 1:
            return product, [_SCALES, *range(_BIAS, len(product.input))]
    return None
