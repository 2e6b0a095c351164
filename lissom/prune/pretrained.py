"""The weights of the pre-trained model, to which methods that learn what to keep go back."""

from torch import Tensor

from lissom.errors import InputError
from lissom.models.base import load_base
from lissom.models.compressed import CompressedModel
from lissom.models.config import BaseParams
from lissom.models.edits import SparseWeights


def pretrained_weights(model: CompressedModel, seed: int) -> dict[str, Tensor]:
    """Return the weights of the base model by name, edited as the model has been; its zeros are not.

    Args:
        model: the model.
        seed: seed of what the pre-trained model lacks, such as a new head.

    Raises:
        InputError: they do not fit the model, which has others.
    """
    manifest = model.manifest
    base = load_base(BaseParams(model=manifest.base, max_length=manifest.task.max_length), manifest.task, seed)
    base.edit([edit for edit in manifest.edits if not isinstance(edit, SparseWeights)])
    weights = dict(base.network.named_parameters())
    shapes = {name: parameter.shape for name, parameter in model.network.named_parameters()}
    if {name: weight.shape for name, weight in weights.items()} != shapes:
        raise InputError(
            f"prune.rewind: base: the weights of {manifest.base} do not fit this model; with distill.method: none, or "
            "a student that keeps blocks, they do"
        )
    return {name: weights[name] for name in shapes}
