"""Weights of which many are zero, and stay so."""

from typing import Literal

from pydantic import Field
from transformers import PreTrainedModel

from lissom.models.edits.edit import StructureEdit


class SparseWeights(StructureEdit):
    """Zeros in the weights of Linear layers: later trainings keep them, and the file of weights leaves them out.

    The structure does not change. Tensors whose sparse form is smaller are stored as one bit for every weight, and the
    values that are not zero (`lissom.models.compact_file`).
    """

    kind: Literal["sparse_weights"] = "sparse_weights"
    sparsity: float = Field(ge=0, le=1)
    """Share of zeros among the weights of attentions and feed-forward networks."""
    pattern: str = ""
    """Of N:M zeros, such as `2:4`: how many of every so many inputs are kept."""

    @property
    def is_compact(self) -> bool:
        """Return whether the file of weights leaves zeros out."""
        return True

    def apply(self, network: PreTrainedModel) -> None:
        """Change nothing; the zeros are in the weights."""

    def describe(self) -> str:
        """Return the edit in a few words."""
        pattern = f", {self.pattern} kept" if self.pattern else ""
        return (
            f"{self.sparsity:.1%} of the blocks' weights are zero{pattern}: smaller on disk, not faster (ONNX Runtime "
            "and llama.cpp multiply with zeros too)"
        )
