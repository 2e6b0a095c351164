"""Networks whose matrices are all plain again, for formats that know no other."""

import copy

from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.models.edits.tables import TiedHead
from lissom.models.edits.word_table import FactorizedHead
from lissom.models.families import family_of
from lissom.models.layers import HasMatrix, Projection
from lissom.models.sites import replace_module


def dense(network: PreTrainedModel) -> PreTrainedModel:
    """Return a network that computes the same with plain projections and tables of floats; itself, if it has no others.

    Products of factors are multiplied out, codes and integers become floats. What is tied stays tied.
    """
    if not any(isinstance(module, HasMatrix | TiedHead) for module in network.modules()):
        return network
    result = copy.deepcopy(network)
    plain: dict[int, nn.Module] = {}
    done: list[str] = []
    modules = list(
        result.named_modules(remove_duplicate=False)
    )  # kept: an object that is freed leaves its id to another
    for path, module in modules:
        if any(path.startswith(f"{whole}.") for whole in done):
            continue
        if isinstance(module, TiedHead | FactorizedHead):
            done.append(path)
        elif isinstance(module, HasMatrix):
            done.append(path)
            if id(module) not in plain:
                plain[id(module)] = _plain(module)
            replace_module(result, path, plain[id(module)])
    table = result.get_submodule(family_of(result).word_table)
    assert isinstance(table, nn.Embedding)
    for path, module in modules:
        if isinstance(module, TiedHead | FactorizedHead):
            replace_module(result, path, _head(table, module.bias))
    return result


def _head(table: nn.Embedding, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(table.embedding_dim, table.num_embeddings, bias=bias is not None, device="meta")
    layer.weight = table.weight
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


def _plain(layer: HasMatrix) -> nn.Module:
    matrix = nn.Parameter(layer.matrix().detach().float().contiguous())
    if not isinstance(layer, Projection):
        rows, columns = matrix.shape
        table = nn.Embedding(rows, columns, device="meta")
        table.weight = matrix
        return table
    bias = getattr(layer, "bias", None)
    linear = nn.Linear(layer.in_features, layer.out_features, bias=bias is not None, device="meta")
    linear.weight = matrix
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().float())
    return linear
