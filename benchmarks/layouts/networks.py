"""What the benchmark of parallel training trains: random networks on random texts."""

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from lissom.data.encoding import Encoded
from lissom.tasks.classification import Classification
from lissom.training.losses import against_targets

SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_WORDS = 2000
TASK = Classification(name="random", labels=("no", "yes"), pair=False, max_length=128)
LOSS = against_targets(TASK)


def network_of(shape: dict[str, int], seed: int = 0, dropout: float = 0.0) -> Any:
    """Return a BERT of a shape with random weights."""
    torch.manual_seed(seed)
    config = BertConfig(
        **shape, vocab_size=_WORDS, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    return AutoModelForSequenceClassification.from_config(config)


def texts(count: int, length: int, ragged: bool = True, seed: int = 0) -> Encoded:
    """Return random texts."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, count) if ragged else np.full(count, length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(1, _WORDS, offsets[-1]).astype(np.int32)
    return Encoded(tokens, np.zeros(len(tokens), dtype=np.uint8), offsets, rng.integers(0, 2, count))
