"""Run one block on one long text and print the process's memory: `python -m benchmarks.attention_memory`."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.attention_speed import PATTERNS
from lissom.export.onnx import write_graph
from lissom.models.edits import UseAttention
from lissom.serving.memory import peak_bytes
from lissom.tasks.classification import Classification


def main() -> None:
    """Print a JSON object: GiB before the run, and at most.

    Arguments are the runtime (torch, backward for torch's forward and backward pass, or onnx), the number of tokens and
    the pattern, of which one without a definition is dense attention.
    """
    runtime, tokens, pattern = sys.argv[1], int(sys.argv[2]), PATTERNS.get(sys.argv[3])
    config = BertConfig(
        vocab_size=1000, hidden_size=384, num_hidden_layers=1, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=tokens,
    )  # fmt: skip
    network = BertForSequenceClassification(config).eval()
    if pattern is not None:
        UseAttention(patterns=(pattern,)).apply(network)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {name: torch.ones(1, tokens, dtype=torch.int64) for name in names}
    if runtime != "onnx":
        before = peak_bytes()
        with torch.set_grad_enabled(runtime == "backward"):
            logits = network(**inputs).logits
        if runtime == "backward":
            logits.sum().backward()
    else:
        import onnxruntime

        task = Classification(name="texts", labels=("a", "b"), pair=False, max_length=tokens)
        with tempfile.TemporaryDirectory() as folder:
            write_graph(network, Path(folder) / "model.onnx", task)
            session = onnxruntime.InferenceSession(Path(folder) / "model.onnx")
        before = peak_bytes()
        session.run(None, {name: np.asarray(value) for name, value in inputs.items()})
    print(json.dumps({"gib_before": before / 2**30, "gib": peak_bytes() / 2**30}))


if __name__ == "__main__":
    main()
