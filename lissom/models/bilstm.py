"""A BiLSTM classifier, a student that is not a Transformer (Tang et al. 2019, arXiv:1903.12136, §3.1).

Word vectors, one bidirectional LSTM, its two last states, a ReLU layer, logits. For pairs the LSTM reads both texts
and the features are `[h1; h2; h1 * h2; |h1 - h2|]`. Sequences are packed, so that padding has no effect; the export
uses onnxruntime's LSTM kernel, which takes the lengths as an input.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from lissom.models.families import BILSTM


class BiLstmConfig(PreTrainedConfig):  # type: ignore[misc, unused-ignore]
    """Shape of a BiLSTM classifier."""

    model_type = BILSTM

    vocab_size: int = 30522
    embedding_size: int = 600
    """Width of the word vectors, both channels (one fixed, one trained) together."""
    hidden_size: int = 150
    """Width of each direction."""
    classifier_size: int = 200
    dropout: float = 0.2
    pair: bool = False
    pad_token_id: int = 0


class _Embeddings(nn.Module):
    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)


class BiLstmForSequenceClassification(PreTrainedModel):  # type: ignore[misc, unused-ignore]
    """BiLSTM classifier with the interface of a sequence classifier of transformers."""

    config_class = BiLstmConfig
    config: BiLstmConfig

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__(config)
        self.embeddings = _Embeddings(config)
        self.lstm = nn.LSTM(config.embedding_size, config.hidden_size, batch_first=True, bidirectional=True)
        features = 2 * config.hidden_size * (4 if config.pair else 1)
        self.dense = nn.Linear(features, config.classifier_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.classifier_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Return the logits `[batch, labels]` of ids, mask and segments `[batch, n]`."""
        vectors = self.dropout(self.embeddings.word_embeddings(input_ids))
        if self.config.pair:
            assert token_type_ids is not None
            second = attention_mask * token_type_ids
            start = (attention_mask - second).sum(1)
            states = [self._encode(vectors, start), self._encode(_shifted(vectors, start), second.sum(1))]
            features = torch.cat([*states, states[0] * states[1], (states[0] - states[1]).abs()], dim=-1)
        else:
            features = self._encode(vectors, attention_mask.sum(1))
        hidden = self.dropout(torch.relu(self.dense(features)))
        return SequenceClassifierOutput(logits=self.classifier(hidden))

    def _encode(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Map vectors `[batch, n, embedding]` to the last states of both directions, `[batch, 2 hidden]`."""
        lengths = lengths.clamp(min=1)
        if torch.onnx.is_in_onnx_export():
            return self._kernel(vectors, lengths)
        packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return torch.cat([last[0], last[1]], dim=-1)

    def _kernel(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        def gates(name: str) -> Tensor:
            return torch.stack([_onnx_order(getattr(self.lstm, f"{name}_l0{side}")) for side in ("", "_reverse")])

        biases = torch.cat([gates("bias_ih"), gates("bias_hh")], dim=1)
        size = self.config.hidden_size
        batch, length = vectors.shape[:2]
        _, last, _ = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (vectors.transpose(0, 1), gates("weight_ih"), gates("weight_hh"), biases, lengths.to(torch.int32)),
            {"direction": "bidirectional", "hidden_size": size},
            dtypes=(torch.float32,) * 3,
            shapes=((length, 2, batch, size), (2, batch, size), (2, batch, size)),
            version=14,
        )
        return last.transpose(0, 1).reshape(batch, 2 * size)


def _shifted(vectors: Tensor, start: Tensor) -> Tensor:
    """Shift row b of `[batch, n, embedding]` left by `start[b]`; positions beyond its end are undefined."""
    places = (torch.arange(vectors.shape[1], device=vectors.device) + start[:, None]).clamp(max=vectors.shape[1] - 1)
    return vectors.gather(1, places[..., None].expand_as(vectors))


def _onnx_order(weight: Tensor) -> Tensor:
    """Reorder gates from torch's order (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
    gates = weight.chunk(4)
    return torch.cat([gates[0], gates[3], gates[1], gates[2]])


AutoConfig.register(BILSTM, BiLstmConfig)
AutoModelForSequenceClassification.register(BiLstmConfig, BiLstmForSequenceClassification)
