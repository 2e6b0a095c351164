"""A static classifier: the mean of token vectors, a ReLU layer, logits. No token is read in the light of another.

For pairs both texts have a mean, u and v, and the features are `[u; v; |u - v|; u * v]`: the order of the two texts
matters, and the last two parts, which are symmetric, compare them (Conneau et al. 2017, arXiv:1705.02364, §3.1).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from lissom.models.families import STATIC


class StaticConfig(PreTrainedConfig):  # type: ignore[misc, unused-ignore]
    """Shape of a static classifier."""

    model_type = STATIC

    vocab_size: int = 30522
    embedding_size: int = 256
    """Width of the token vectors."""
    classifier_size: int = 256
    """Width of the layer before the logits."""
    dropout: float = 0.2
    pair: bool = False
    pad_token_id: int = 0


class _Embeddings(nn.Module):
    def __init__(self, config: StaticConfig) -> None:
        super().__init__()
        # Padding needs no row of zeros: the mean leaves it out.
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)


class StaticForSequenceClassification(PreTrainedModel):  # type: ignore[misc, unused-ignore]
    """Static classifier with the interface of a sequence classifier of transformers."""

    config_class = StaticConfig
    config: StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embeddings = _Embeddings(config)
        self.dense = nn.Linear(config.embedding_size * (4 if config.pair else 1), config.classifier_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.classifier_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Return the logits `[batch, labels]` of ids, mask and segments `[batch, n]`."""
        vectors = self.embeddings.word_embeddings(input_ids)
        if self.config.pair:
            assert token_type_ids is not None
            second = attention_mask * token_type_ids
            features = pair_features(mean_of(vectors, attention_mask - second), mean_of(vectors, second))
        else:
            features = mean_of(vectors, attention_mask)
        hidden = torch.relu(self.dense(self.dropout(features)))
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(hidden)))


def mean_of(vectors: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of vectors `[batch, n, d]` where `mask` `[batch, n]` is 1, `[batch, d]`; zeros where none is."""
    counts = mask.sum(1, keepdim=True).clamp(min=1)
    total = (mask.unsqueeze(1).to(vectors.dtype) @ vectors).squeeze(1)
    return total / counts


def pair_features(first: Tensor, second: Tensor) -> Tensor:
    """Return `[u; v; |u - v|; u * v]` of two means `[batch, d]`, `[batch, 4 d]`."""
    return torch.cat([first, second, (first - second).abs(), first * second], dim=-1)


AutoConfig.register(STATIC, StaticConfig)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification)
