"""The compressed model: a network, its tokenizer and its manifest, as `lissom.load` returns them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.data.encoding import Encoded
from lissom.data.tables import Table
from lissom.models.edits import Edit
from lissom.models.families import FAMILIES
from lissom.models.manifest import Manifest
from lissom.models.sites import exits_of


@dataclass
class CompressedModel:
    """A model with zero or more edits applied to its base model."""

    network: PreTrainedModel
    tokenizer: Tokenizer
    tokenizer_config: dict[str, Any]
    manifest: Manifest
    target_tokenizer: Tokenizer | None = None
    """The tokenizer of the translations, if it is not that of the texts; tokens are numbered alike."""

    @property
    def pad_id(self) -> int:
        """Return the id of the padding token."""
        return self.network.config.pad_token_id or 0

    def edit(self, edits: Iterable[Edit]) -> None:
        """Apply edits in order to network, tokenizer and manifest.

        Raises:
            InputError: an edit does not fit; the model is then partly edited and must be loaded again.
        """
        for edit in edits:
            edit.apply(self.network)
            self.tokenizer = edit.retokenize(self.tokenizer)
            if self.target_tokenizer is not None:
                self.target_tokenizer = edit.retokenize(self.target_tokenizer)
            update = {"edits": (*self.manifest.edits, edit), "task": edit.retask(self.manifest.task)}
            self.manifest = self.manifest.model_copy(update=update)

    def encode(self, tables: Sequence[Table], folder: Path) -> Encoded:
        """Tokenise and concatenate tables into files below `folder`, which must outlive the result."""
        return self.manifest.task.encode(tables, self.tokenizer, folder, self.target_tokenizer)

    def count_rows(self, tables: Sequence[Table]) -> int:
        """Return the number of rows of targets that `encode` makes of tables."""
        return self.manifest.task.count_rows(tables, self.tokenizer, self.target_tokenizer)


def input_names(network: PreTrainedModel) -> list[str]:
    """Return the names of a network's input tensors, each `[batch, n]`, or `[batch, m]` of a decoder."""
    family = FAMILIES[network.config.model_type]
    more = ["token_type_ids"] if family.token_types else []
    more += ["decoder_input_ids"] if family.has_encoder_and_decoder else []
    return ["input_ids", "attention_mask", *more]


def inputs_of(network: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """Return a network's inputs from a batch, by name."""
    return {name: batch.inputs[name] for name in input_names(network)}


def logits_of(network: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of a batch's rows, `[rows, labels]`; from the last exit if the network has exits."""
    return batch.outputs_of(logits_from(network, inputs_of(network, batch)))


def logits_from(network: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits, `[batch, labels]` or `[batch, n, labels]` by the task, of inputs given by name."""
    exits = exits_of(network)
    if exits is None:
        logits: Tensor = network(**inputs).logits
        return logits
    hidden = network.base_model(**inputs).last_hidden_state
    last: Tensor = exits[-1](hidden, inputs["attention_mask"])
    return last


def accelerator() -> torch.device:
    """Return the device that trainings run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
