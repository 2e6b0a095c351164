"""torch's table of ONNX operators, built once per process instead of for every traced graph.

`torch.onnx.export` looks up hundreds of operators whenever it begins, which is a fifth of the time in which the tests'
tiny networks are traced. The table is the same every time; what is handed out is a copy, so that no trace can see another.
"""

from functools import lru_cache


def keep_operators() -> None:
    """Let `torch.onnx.export` build its table of operators at its first call only."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    if isinstance(ONNXRegistry.__dict__["from_torchlib"], classmethod):
        build = lru_cache(ONNXRegistry.from_torchlib)

        def copied(opset_version: int) -> ONNXRegistry:
            kept, result = build(opset_version), ONNXRegistry()
            result._opset_version = opset_version
            result.functions = {target: list(functions) for target, functions in kept.functions.items()}
            return result

        ONNXRegistry.from_torchlib = staticmethod(copied)  # type: ignore[method-assign, assignment]
