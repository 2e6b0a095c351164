"""Base class of edits: frozen values that change a network's structure deterministically."""

from abc import ABC, abstractmethod

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from lissom.section import Section
from lissom.tasks.kinds import AnyTask


class StructureEdit(Section, ABC):
    """One change of a network's structure; `kind` identifies the subclass in JSON."""

    kind: str

    @abstractmethod
    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place, keeping the remaining weights.

        Must also work on a network on the meta device, since that is how models are loaded.

        Raises:
            InputError: it does not fit the network.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return the edit in a few words."""

    @property
    def is_compact(self) -> bool:
        """Return whether the file of weights has a compact form of tensors (`lissom.models.compact_file`)."""
        return False

    def is_plain(self, network: PreTrainedModel) -> bool:  # noqa: ARG002
        """Return whether transformers can load the result with its own class and a changed config.

        False by default: transformers would initialise the weights at random that its own class has in addition.
        """
        return False

    def retask(self, task: AnyTask) -> AnyTask:
        """Return the task that suits the edited network."""
        return task

    def retokenize(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the tokenizer that suits the edited network."""
        return tokenizer
