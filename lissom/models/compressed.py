"""A network, its tokenizer and its manifest: what `lissom.load` returns and techniques work on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.edits import Edit, KeepVocabulary
from lissom.models.families import FAMILIES
from lissom.models.manifest import Manifest
from lissom.models.vocabulary import trim_tokenizer


@dataclass
class CompressedModel:
    """A model on its way: zero or more edits away from its base."""

    network: PreTrainedModel
    tokenizer: Tokenizer
    tokenizer_config: dict[str, Any]
    manifest: Manifest

    @property
    def pad_id(self) -> int:
        """Return the id that fills up short examples."""
        return self.network.config.pad_token_id or 0

    def edit(self, edits: Iterable[Edit]) -> None:
        """Apply edits in order to network, tokenizer and manifest.

        Raises:
            InputError: an edit does not fit; the model is then partly edited and must be loaded again.
        """
        for edit in edits:
            edit.apply(self.network)
            if isinstance(edit, KeepVocabulary):
                self.tokenizer = trim_tokenizer(self.tokenizer, edit.kept)
            self.manifest = self.manifest.model_copy(update={"edits": (*self.manifest.edits, edit)})


def logits_of(network: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of a batch, `[batch, labels]`."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if FAMILIES[network.config.model_type].token_types:  # type: ignore[union-attr, index]
        inputs["token_type_ids"] = batch.token_type_ids
    logits: Tensor = network(**inputs).logits
    return logits


def accelerator() -> torch.device:
    """Return the device that trainings run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
