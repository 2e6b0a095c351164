"""Shrink the word table: drop tokens that the domain does not use, positions that are never reached, and rank.

The table is half of a small encoder's parameters, and almost all of its rows are never read in one domain. Any text
still tokenises: what is dropped is spelt with smaller pieces. Returns edits.
"""

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from lissom.data.encoding import Encoded
from lissom.factorize.config import WordTableFactorization
from lissom.models.edits import Edit, FactorizeWordTable, KeepPositions, KeepVocabulary
from lissom.models.families import family_of
from lissom.models.vocabulary import closed_vocabulary, count_tokens


def plan(
    network: PreTrainedModel, tokenizer: Tokenizer, data: Encoded, max_length: int, params: WordTableFactorization
) -> list[Edit]:
    """Return the edits that shrink the tables.

    Args:
        network: the network; not changed.
        tokenizer: its tokenizer.
        data: the domain's texts: train and transfer, never dev or test.
        max_length: longest input in tokens.
        params: counts and rank.
    """
    edits: list[Edit] = []
    if params.min_count is not None:
        counts = count_tokens(data.tokens, tokenizer.get_vocab_size())
        edits.append(KeepVocabulary(kept=closed_vocabulary(tokenizer, counts, params.min_count)))
    position_table = family_of(network).position_table
    if position_table is not None and max_length < network.get_submodule(position_table).num_embeddings:
        edits.append(KeepPositions(length=max_length))
    if params.rank is not None:
        edits.append(FactorizeWordTable(rank=params.rank))
    return edits
