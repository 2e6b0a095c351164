"""Keep some rows of the word table, and trim the tokenizer to the same tokens."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.capabilities import check_technique
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.surgery import check_indices, slice_linear, slice_rows
from lissom.models.edits.word_table import rows_of
from lissom.models.families import classifier_of, family_of
from lissom.models.sites import fixed_tokens, replace_module, tied_head
from lissom.models.vocabulary import trim_tokenizer

_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "unk_token_id")


class KeepVocabulary(StructureEdit):
    """Drop all tokens but those in `kept`, which are renumbered in their order."""

    kind: Literal["keep_vocabulary"] = "keep_vocabulary"
    kept: tuple[int, ...]
    """Old numbers of the kept tokens, ascending; special tokens must be among them."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` if a special token would be dropped."""
        check_technique(network, "word_table", self.kind)
        path = rows_of(network, family_of(network).word_table)
        table = network.get_submodule(path)
        check_indices("keep_vocabulary", self.kept, table.num_embeddings)
        new_id = {old: new for new, old in enumerate(self.kept)}
        renumber_special_ids(network, new_id, self.kind)
        fixed = fixed_tokens(network)
        if fixed and new_id.get(fixed - 1) != fixed - 1:
            raise InputError(f"keep_vocabulary: tokens before the padding token {fixed - 1} must be kept")
        head, smaller = tied_head(network), slice_rows(table, self.kept)
        replace_module(network, path, smaller)
        if head is not None:
            replace_module(network, head, _tied_to(smaller, network.get_submodule(head).bias, self.kept))
        elif (own := classifier_of(network)) == "lm_head":  # predicts the tokens, with a matrix of its own
            replace_module(network, own, slice_linear(network, own, rows=self.kept))
        network.config.vocab_size = len(self.kept)

    def retokenize(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the tokenizer, trimmed to the kept tokens."""
        return trim_tokenizer(tokenizer, self.kept)

    def is_plain(self, network: PreTrainedModel) -> bool:  # noqa: ARG002
        """Return true: a config names the size of the vocabulary."""
        return True

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {len(self.kept):,} tokens"


def renumber_special_ids(network: PreTrainedModel, new_id: Mapping[int, int], subject: str) -> None:
    """Give the special tokens in a network's config their new numbers.

    Raises:
        InputError: one has none.
    """
    for name in _TOKEN_IDS:
        old = getattr(network.config, name, None)
        if old is None:
            continue
        old_ids = list(old) if isinstance(old, list | tuple) else [old]
        if missing := [number for number in old_ids if number not in new_id]:
            raise InputError(f"{subject}: {name} {missing[0]} is not among the kept tokens")
        new_ids = [new_id[number] for number in old_ids]
        setattr(network.config, name, new_ids if isinstance(old, list | tuple) else new_ids[0])


def _tied_to(table: nn.Embedding, bias: Tensor | None, token_ids: Sequence[int]) -> nn.Linear:
    """Return an output projection that is tied to `table`, with the entries `kept` of the old bias."""
    head = nn.Linear(table.embedding_dim, table.num_embeddings, bias=bias is not None, device="meta")
    head.weight = table.weight
    if bias is not None:
        index = torch.tensor(token_ids, dtype=torch.long, device=bias.device)
        head.bias = nn.Parameter(bias.detach()[index].contiguous())
    return head
