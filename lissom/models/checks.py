"""Checks of what a downloaded model says of itself, made when it is loaded."""

from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.families import FAMILIES, classifier_of


def check_tokens(model: str, network: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Raise `InputError` if the tokenizer has a token for which the word table has no row."""
    rows = int(network.get_input_embeddings().weight.shape[0])
    token, largest = max(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    if largest >= rows:
        raise InputError(
            f"base.model {model}: the tokenizer has the token {token!r} with id {largest}, the word table has {rows} "
            f"rows (ids 0 to {rows - 1}); remove the token from tokenizer.json, or add rows to the word table"
        )


def count_positions(network: PreTrainedModel) -> int | None:
    """Return how many positions a network has; None if their number is not limited."""
    path = FAMILIES[network.config.model_type].position_table
    if path is None:
        positions = getattr(network.config, "max_position_embeddings", None)
        return None if positions is None else int(positions)
    table: Any = network.get_submodule(path)
    # RoBERTa counts positions from behind the padding token.
    return int(table.num_embeddings) - (0 if table.padding_idx is None else table.padding_idx + 1)


def check_positions(model: str, positions: int | None, max_length: int) -> None:
    """Raise `InputError` if texts may be longer than a model has positions."""
    if positions is not None and max_length > positions:
        raise InputError(
            f"base.max_length is {max_length}, base.model {model} has {positions} positions; set base.max_length to "
            f"at most {positions}, or base.longer_positions to copy or interpolate"
        )


def fit_head(network: PreTrainedModel, names: list[str], labels: tuple[str, ...]) -> str | None:
    """Give the rows of a trained head the order of `labels`, or initialise them anew if the names are others.

    Args:
        network: a network whose head has a row for every one of `names`.
        names: the labels of the head's rows.
        labels: the labels of the data.

    Returns:
        What was done; None if the order was right.
    """
    if list(labels) == names:
        return None
    head: Any = network.get_submodule(classifier_of(network) or "")
    if sorted(labels) != sorted(names):
        for parameter in head.parameters():
            parameter._is_hf_initialized = False  # transformers leaves loaded parameters as they are
        network._init_weights(head)
        return f"the base model's head has the labels {', '.join(names)}, the data has {', '.join(labels)}: a new head"
    order = torch.tensor([names.index(label) for label in labels])
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[order].clone())
    return f"the rows of the base model's head are put into the order of the data's labels: {', '.join(labels)}"
