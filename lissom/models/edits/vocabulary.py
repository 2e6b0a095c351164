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
from lissom.models.edits.surgery import check_indices, slice_linear
from lissom.models.edits.word_table import rows_of
from lissom.models.families import classifier_of, family_of
from lissom.models.sites import fixed_tokens, replace_module, tied_head
from lissom.models.vocabulary import trim_tokenizer
from lissom.tasks.kinds import AnyTask

_TOKEN_IDS = (
    "pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "unk_token_id",
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip

_LOGITS_BIAS = "final_logits_bias"
"""Buffer of BART and Marian, `[1, vocabulary]`, that is added to all logits."""


class KeepVocabulary(StructureEdit):
    """Drop all tokens but those in `kept`, which are renumbered in their order."""

    kind: Literal["keep_vocabulary"] = "keep_vocabulary"
    kept: tuple[int, ...]
    """Old numbers of the kept tokens, ascending; special tokens must be among them."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` if a special token would be dropped."""
        check_technique(network, "vocabulary", self.kind)
        table = network.get_submodule(rows_of(network, family_of(network).word_table))
        if not isinstance(table, nn.Embedding):
            raise InputError(
                f"{self.kind}: the word table is a {type(table).__name__}, which cannot be cut: remove tokens before "
                "that edit"
            )
        check_indices(self.kind, self.kept, table.num_embeddings)
        new_id = {old: new for new, old in enumerate(self.kept)}
        renumber_special_ids(network, new_id, self.kind)
        fixed = fixed_tokens(network)
        if fixed and new_id.get(fixed - 1) != fixed - 1:
            raise InputError(f"keep_vocabulary: tokens before the padding token {fixed - 1} must be kept")
        if tied_head(network) is None and (own := classifier_of(network)) == "lm_head":  # with a matrix of its own
            replace_module(network, own, slice_linear(network, own, rows=self.kept))
        _cut_rows(network, table.weight, self.kept, new_id)
        network.config.vocab_size = len(self.kept)
        if getattr(network.config, "decoder_vocab_size", None) is not None:  # Marian names it twice
            network.config.decoder_vocab_size = len(self.kept)

    def retokenize(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the tokenizer, trimmed to the kept tokens."""
        return trim_tokenizer(tokenizer, self.kept)

    def retask(self, task: AnyTask) -> AnyTask:
        """Return the task with the new number of the token that a decoder reads first."""
        return task.with_tokens(self.kept)

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


def _cut_rows(network: PreTrainedModel, weight: Tensor, kept: Sequence[int], new_id: Mapping[int, int]) -> None:
    """Keep some rows of the word table wherever they are used: encoder and decoder may share them, and a head."""
    index = torch.tensor(kept, dtype=torch.long, device=weight.device)
    smaller = nn.Parameter(weight.detach()[index].contiguous(), requires_grad=weight.requires_grad)
    for module in list(network.modules()):
        if isinstance(module, nn.Embedding) and module.weight is weight:
            module.weight, module.num_embeddings = smaller, len(kept)
            module.padding_idx = None if module.padding_idx is None else new_id[module.padding_idx]
        elif isinstance(module, nn.Linear) and module.weight is weight:
            module.weight, module.out_features = smaller, len(kept)
            if module.bias is not None:
                bias = module.bias
                module.bias = nn.Parameter(bias.detach()[index].contiguous(), requires_grad=bias.requires_grad)
    if _LOGITS_BIAS in dict(network.named_buffers(recurse=False)):
        network.register_buffer(_LOGITS_BIAS, network.get_buffer(_LOGITS_BIAS)[:, index])
