"""Keep some rows of the word table, together with the tokenizer that only makes these tokens."""

from typing import Literal

from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.surgery import check_kept, cut_rows
from lissom.models.edits.word_table import rows_of
from lissom.models.families import family_of, replace_module
from lissom.section import Section

_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "unk_token_id")


class KeepVocabulary(Section):
    """Drop all tokens but these; the kept ones are renumbered in their order."""

    kind: Literal["keep_vocabulary"] = "keep_vocabulary"
    kept: tuple[int, ...]
    """Old numbers of the kept tokens, ascending; special tokens must be among them."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` if a special token would go."""
        path = rows_of(network, family_of(network).word_table)
        table = network.get_submodule(path)
        check_kept("keep_vocabulary", self.kept, table.num_embeddings)
        new_id = {old: new for new, old in enumerate(self.kept)}
        for name in _TOKEN_IDS:
            old = getattr(network.config, name, None)
            if old is None:
                continue
            if old not in new_id:
                raise InputError(f"keep_vocabulary: {name} {old} is not among the kept tokens")
            setattr(network.config, name, new_id[old])
        if table.padding_idx is not None and new_id[table.padding_idx] != table.padding_idx:
            # RoBERTa derives positions from the number of the padding token.
            raise InputError(f"keep_vocabulary: tokens before the padding token {table.padding_idx} must be kept")
        replace_module(network, path, cut_rows(table, self.kept))
        network.config.vocab_size = len(self.kept)

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {len(self.kept):,} tokens"
