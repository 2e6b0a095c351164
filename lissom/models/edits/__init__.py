"""Edits: serialisable changes of a network's structure that keep the remaining weights.

A compressed model is a base config, an ordered list of edits, and weights; the registry shows the list as lineage.
`apply` changes a network in place, with real weights or on the meta device.
"""

from typing import Annotated

from pydantic import Field

from lissom.models.edits.attention import UseAttention
from lissom.models.edits.blocks import KeepBlocks
from lissom.models.edits.channels import KeepChannels
from lissom.models.edits.codebooks import ProductQuantize
from lissom.models.edits.exits import AddExits, DropExits
from lissom.models.edits.grouped import GroupWeights
from lissom.models.edits.halves import HalfWeights
from lissom.models.edits.heads import KeepHeads
from lissom.models.edits.kronecker import Kronecker
from lissom.models.edits.longer import ExtendPositions
from lissom.models.edits.low_rank import LowRank
from lissom.models.edits.neurons import KeepNeurons
from lissom.models.edits.new_vocabulary import NewVocabulary
from lissom.models.edits.positions import KeepPositions
from lissom.models.edits.quantizers import FakeQuantize
from lissom.models.edits.sparse import SparseWeights
from lissom.models.edits.stored import StoreIntegers
from lissom.models.edits.tensor_train import TensorTrain
from lissom.models.edits.vocabulary import KeepVocabulary
from lissom.models.edits.word_table import FactorizeWordTable

Edit = Annotated[
    KeepBlocks
    | KeepHeads
    | KeepNeurons
    | KeepChannels
    | KeepPositions
    | ExtendPositions
    | KeepVocabulary
    | NewVocabulary
    | FactorizeWordTable
    | LowRank
    | Kronecker
    | TensorTrain
    | AddExits
    | DropExits
    | FakeQuantize
    | StoreIntegers
    | GroupWeights
    | HalfWeights
    | ProductQuantize
    | SparseWeights
    | UseAttention,
    Field(discriminator="kind"),
]

__all__ = [
    "AddExits",
    "DropExits",
    "Edit",
    "ExtendPositions",
    "FactorizeWordTable",
    "FakeQuantize",
    "GroupWeights",
    "HalfWeights",
    "KeepBlocks",
    "KeepChannels",
    "KeepHeads",
    "KeepNeurons",
    "KeepPositions",
    "KeepVocabulary",
    "Kronecker",
    "LowRank",
    "NewVocabulary",
    "ProductQuantize",
    "SparseWeights",
    "StoreIntegers",
    "TensorTrain",
    "UseAttention",
]
