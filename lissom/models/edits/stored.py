"""Quantised layers in their final form."""

from typing import Literal

from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.layers import Convertible, convert


class StoreIntegers(StructureEdit):
    """Replace all fake-quantised layers by the integers that they stand for; nothing is trained or cut afterwards."""

    kind: Literal["store_integers"] = "store_integers"

    @property
    def is_compact(self) -> bool:
        """Return whether the file of weights needs a compact form."""
        return True

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        Raises:
            InputError: there are no fake-quantised layers.
        """
        if not any(isinstance(module, Convertible) for module in network.modules()):
            raise InputError("store_integers: no layer is fake-quantised")
        convert(network)

    def describe(self) -> str:
        """Return the edit in a few words."""
        return "stored as integers"
