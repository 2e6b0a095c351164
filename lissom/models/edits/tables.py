"""Replacing the word table in all places that use it."""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.capabilities import check_technique
from lissom.models.edits.word_table import FactorizedHead, rows_of
from lissom.models.factors import KroneckerEmbedding, TensorTrainEmbedding
from lissom.models.families import family_of
from lissom.models.layers import matrix_of
from lissom.models.sites import replace_module, tied_head


class TiedHead(nn.Module):
    """The output projection that is tied to a word table whose rows are rounded or stored in another form."""

    def __init__(self, table: nn.Module, bias: Tensor | None) -> None:
        super().__init__()
        self.table = table
        self.bias = bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states `[..., d]` to logits `[..., V]`."""
        if isinstance(self.table, KroneckerEmbedding | TensorTrainEmbedding):
            scores = self.table.scores(hidden)
            return scores if self.bias is None else scores + self.bias
        return F.linear(hidden, matrix_of(self.table), self.bias)


def plain_table(network: PreTrainedModel, subject: str) -> nn.Embedding:
    """Return the word table.

    Raises:
        InputError: the family's table cannot be edited, or it is factorised or quantised already.
    """
    check_technique(network, "word_table", subject)
    table = network.get_submodule(family_of(network).word_table)
    if type(table) is not nn.Embedding:
        raise InputError(f"{subject}: the word table is a {type(table).__name__} already; factorise it once, and first")
    return table


def replace_table(network: PreTrainedModel, table: nn.Module) -> None:
    """Replace the word table's rows wherever they are used: encoder and decoder may share them, and a head."""
    old = network.get_submodule(rows_of(network, family_of(network).word_table))
    head, weight = tied_head(network), getattr(old, "weight", None)
    places = [
        path
        for path, module in network.named_modules(remove_duplicate=False)
        if module is old or (type(module) is nn.Embedding and module.weight is weight)
    ]
    for path in places:
        replace_module(network, path, table)
    if head is not None:
        replace_module(network, head, TiedHead(table, network.get_submodule(head).bias))
    for module in network.modules():
        if isinstance(module, TiedHead) and module.table is old:
            module.table = table


def share_factors(network: PreTrainedModel) -> None:
    """Let a head that is tied to a factorised table use the table's present layers."""
    for module in network.modules():
        if isinstance(module, FactorizedHead):
            factors = network.get_submodule(family_of(network).word_table)
            module.table, module.projection = factors.get_submodule("table"), factors.get_submodule("projection")
