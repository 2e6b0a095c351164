"""Another vocabulary: the word table begins with means of old rows."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.tables import plain_table, replace_table
from lissom.models.edits.vocabulary import renumber_special_ids
from lissom.models.new_vocabulary import with_pieces
from lissom.models.sites import fixed_tokens


class NewVocabulary(StructureEdit):
    """Replace all tokens; the vector of a new one is the mean of those of the old tokens that it consists of."""

    kind: Literal["new_vocabulary"] = "new_vocabulary"
    tokens: tuple[str, ...] = Field(min_length=1)
    """In the order of their numbers."""
    merges: tuple[tuple[str, str], ...] = ()
    """Of a BPE, in the order of their ranks."""
    pieces: tuple[tuple[int, ...], ...] = Field(repr=False)
    """Numbers of the old tokens of every new one; special tokens, which stay, have their own."""

    @model_validator(mode="after")
    def _has_pieces_for_all(self) -> "NewVocabulary":
        if len(self.tokens) != len(self.pieces) or len(set(self.tokens)) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens, all different, need as many lists of old ones")
        return self

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        Raises:
            InputError: the family's table cannot be edited or is not plain, or a special token would be lost.
        """
        table = plain_table(network, self.kind)
        old_rows = table.num_embeddings
        if any(not 0 <= old < old_rows for pieces in self.pieces for old in pieces):
            raise InputError(f"{self.kind}: pieces name tokens that are not among the {old_rows} of the model")
        new_id: dict[int, int] = {}
        for number, pieces in enumerate(self.pieces):
            if len(pieces) == 1:
                new_id.setdefault(pieces[0], number)
        renumber_special_ids(network, new_id, self.kind)
        fixed = fixed_tokens(network)
        if any(new_id.get(number) != number for number in range(fixed)):
            raise InputError(f"{self.kind}: the first {fixed} tokens must keep their numbers in this family")
        padding = None if table.padding_idx is None else new_id[table.padding_idx]
        fresh = nn.Embedding(len(self.tokens), table.embedding_dim, padding_idx=padding, device="meta")
        fresh.weight = nn.Parameter(self._rows(table), requires_grad=table.weight.requires_grad)
        replace_table(network, fresh.train(table.training))
        network.config.vocab_size = len(self.tokens)

    def _rows(self, table: nn.Embedding) -> torch.Tensor:
        weight = table.weight.detach()
        if weight.is_meta:
            return weight.new_empty(len(self.tokens), weight.shape[1])
        lengths = torch.tensor([len(pieces) for pieces in self.pieces], device=weight.device)
        flat = torch.tensor([old for pieces in self.pieces for old in pieces], dtype=torch.long, device=weight.device)
        starts = torch.cumsum(lengths, 0) - lengths
        means = nn.functional.embedding_bag(flat, weight, starts, mode="mean")
        # A token that the old tokenizer could not spell begins with the mean of all rows.
        return torch.where(lengths[:, None] > 0, means, weight.mean(0)).contiguous()

    def retokenize(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the tokenizer with the new vocabulary."""
        return with_pieces(tokenizer, self.tokens, self.merges)

    def is_plain(self, network: PreTrainedModel) -> bool:  # noqa: ARG002
        """Return true: a config names the size of the vocabulary."""
        return True

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"{len(self.tokens):,} tokens learnt from the texts"
