"""Factorisation: which matrices to replace by smaller ones."""

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from lissom.data.encoding import Encoded
from lissom.factorize import word_table
from lissom.factorize.config import FactorizeParams, NoFactorization, WordTableFactorization
from lissom.models.edits import Edit


def plan(
    network: PreTrainedModel, tokenizer: Tokenizer, data: Encoded, max_length: int, params: FactorizeParams
) -> list[Edit]:
    """Return the edits that a factorisation method decides on; `data` are train and transfer texts."""
    match params:
        case NoFactorization():
            return []
        case WordTableFactorization():
            return word_table.plan(network, tokenizer, data, max_length, params)
