"""Let attention see some keys instead of all (`lissom.attention`); weights do not change."""

from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedModel

from lissom.attention.config import Pattern
from lissom.errors import InputError
from lissom.models.capabilities import check_technique
from lissom.models.edits.edit import StructureEdit
from lissom.models.patterned import NAME, set_patterns
from lissom.models.sites import attention_sites, blocks_of, head_size

_SIZES = ("size", "radius", "stride", "segments", "dilations")


class UseAttention(StructureEdit):
    """Give attentions a pattern; blocks and heads that no pattern names are left as they are."""

    kind: Literal["use_attention"] = "use_attention"
    patterns: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    """Patterns of all blocks and heads, or of those that they name; the last one that names a head counts."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        Raises:
            InputError: the family's attention cannot be exchanged, or a pattern names a block or head that is not
                there.
        """
        check_technique(network, "attention", self.kind)
        blocks = len(blocks_of(network))
        for number, site in enumerate(attention_sites(network)):
            heads = network.get_submodule(site.query).out_features // head_size(network)
            self.check(blocks, heads)
            patterns = [pattern for pattern in self.patterns if pattern.blocks is None or number in pattern.blocks]
            if patterns:
                set_patterns(network.get_submodule(site.module), patterns, heads)
        network.set_attn_implementation(NAME)

    def check(self, blocks: int, heads: int) -> None:
        """Raise `InputError` if a pattern names a block or a head that a model of so many does not have."""
        for pattern in self.patterns:
            for what, numbers, available in (("block", pattern.blocks, blocks), ("head", pattern.heads, heads)):
                if numbers is not None and max(numbers) >= available:
                    raise InputError(
                        f"attention: {pattern.pattern} is for {what} {max(numbers)}; the model has {what}s 0 to "
                        f"{available - 1}"
                    )

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"attention: {', '.join(_described(pattern) for pattern in self.patterns)}"


def _described(pattern: Pattern) -> str:
    always = {name for name in _SIZES if name in type(pattern).model_fields}
    values = pattern.model_dump(include=always) | pattern.model_dump(exclude_defaults=True, exclude={"pattern"})
    sizes = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in values.items())
    return f"{pattern.pattern.replace('_', ' ')} ({sizes})"


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
