"""The base of every edit: a small frozen value that changes a network's structure and repeats exactly."""

from abc import ABC, abstractmethod

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from lissom.section import Section


class StructureEdit(Section, ABC):
    """One change of a network; `kind` tells the subclasses apart in JSON."""

    kind: str

    @abstractmethod
    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place, keeping the weights that survive.

        Must also work on a network whose parameters are on the meta device: that is how models are loaded.

        Raises:
            InputError: it does not fit the network.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return the edit in a few words."""

    def is_plain(self, network: PreTrainedModel) -> bool:  # noqa: ARG002
        """Return whether transformers' own class can be configured to the result, so that it may load it.

        False unless an edit says otherwise: a model that is wrongly called plain is filled with random weights.
        """
        return False

    def retokenize(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the tokenizer that suits the edited network."""
        return tokenizer
