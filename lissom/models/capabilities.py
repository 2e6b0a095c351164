"""What can be done with each family of models, derived from the table of families."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.families import FAMILIES
from lissom.models.family import Family

if TYPE_CHECKING:
    from lissom.tasks.task import Task

Technique = Literal[
    "blocks",
    "heads",
    "neurons",
    "channels",
    "vocabulary",
    "word_table",
    "positions",
    "longer",
    "attention",
    "int8",
    "exits",
    "hidden",
    "scores",
    "tensor",
    "pipeline",
    "texts",
    "words",
    "language",
    "translation",
]

TITLES: dict[Technique, str] = {
    "blocks": "keep some blocks",
    "heads": "prune heads",
    "neurons": "prune neurons",
    "channels": "prune hidden channels",
    "vocabulary": "keep fewer tokens",
    "word_table": "replace the word table",
    "positions": "shrink the position table",
    "longer": "more positions",
    "attention": "attention patterns",
    "int8": "int8",
    "exits": "exits",
    "hidden": "distil hidden states",
    "scores": "distil attention",
    "tensor": "tensor parallel",
    "pipeline": "pipeline parallel",
    "texts": "label texts",
    "words": "label words",
    "language": "language modeling",
    "translation": "translation",
}
"""Column titles, in the order of the table."""


_OF_ONE_STACK: tuple[Technique, ...] = (
    "word_table", "positions", "longer", "attention", "exits", "hidden", "scores", "tensor", "pipeline", "texts",
    "words", "language",
)  # fmt: skip
"""What is made for networks of one stack of blocks."""


@dataclass(frozen=True)
class Limit:
    """Why a technique does not work with a family, or not on all of it."""

    reason: str
    partly: bool = False
    """Whether the technique works on the rest of the network."""


def limit_of(family: Family, technique: Technique) -> Limit | None:
    """Return what limits a technique on a family; None if nothing does."""
    if not family.stacks and technique not in ("vocabulary", "word_table", "positions", "int8", "texts"):
        return Limit("it has no Transformer blocks")
    if technique == "translation" and not family.has_encoder_and_decoder:
        return Limit("it has no encoder with a decoder")
    if family.has_encoder_and_decoder and technique in _OF_ONE_STACK:
        return Limit("it has two stacks of blocks")
    match technique:
        case "positions" if family.position_table is None:
            return Limit("it has no table of positions")
        case "longer" if family.position_table is None and family.rotary is None:
            return Limit("it has neither a table of positions nor one rotation by position for all blocks")
        case "attention" if not family.attention_function:
            return Limit("it computes attention inside its blocks, so that no other can take its place")
        case "word_table" if family.scaled_word_table:
            return Limit("its word table multiplies the vectors by a constant, which an edited table would lose")
        case "int8" if family.scaled_word_table:
            return Limit("its word table stays in floats", partly=True)
        case "scores" if not family.attention_function:
            return Limit("it computes attention inside its blocks, so that the scores cannot be captured")
        case "exits" | "pipeline" if family.read_by_all_blocks is not None:
            return Limit(f"every block reads {family.read_by_all_blocks}, so that its blocks cannot run apart")
        case "language" if not family.decoder:
            return Limit("it is not pre-trained to predict the next token")
        case "words" if family.token_classifier is None:
            return Limit("transformers has no token classifier of it")
        case "tensor" if any(site.heads_attribute for stack in family.stacks for site in stack.attention):
            return Limit("its attention keeps the number of heads, and is whole on every process", partly=True)
        case "tensor" if any(stack.more_ffn for stack in family.stacks):
            return Limit("its feed-forward networks are whole on every process", partly=True)
        case _:
            return None


def technique_of(task: "Task") -> Technique:
    """Return what a family must be able to do for a task."""
    if task.writes_texts:
        return "translation"
    if task.continues_texts:
        return "language"
    return "words" if task.is_per_token else "texts"


def check_technique(network: PreTrainedModel, technique: Technique, subject: str) -> None:
    """Raise `InputError` if a technique does not work with the family of a network; arguments as for `check_family`."""
    check_family(network.config.model_type, technique, subject)


def check_family(model_type: str, technique: Technique, subject: str) -> None:
    """Raise `InputError` if a technique does not work with a family.

    Args:
        model_type: the family, by transformers' name.
        technique: what is wanted of it.
        subject: what asked for it, the start of the message.
    """
    limit = limit_of(FAMILIES[model_type], technique)
    if limit is not None and not limit.partly:
        raise InputError(
            f"{subject}: not possible with a {model_type} ({TITLES[technique]}): {limit.reason}; `lissom families` "
            "lists what works"
        )


def families_table() -> str:
    """Return the table of families and techniques as Markdown, with the reasons for what does not work."""
    rows: list[str] = []
    reasons: list[str] = []
    for model_type, family in sorted(FAMILIES.items()):
        cells = []
        for technique in TITLES:
            limit = limit_of(family, technique)
            mark = "yes" if limit is None else "partly" if limit.partly else "no"
            if limit is None:
                cells.append(mark)
                continue
            if limit.reason not in reasons:
                reasons.append(limit.reason)
            cells.append(f"{mark} ({reasons.index(limit.reason) + 1})")
        rows.append(f"| `{model_type}` | {' | '.join(cells)} |")
    return "\n".join([
        f"| family | {' | '.join(TITLES.values())} |",
        f"| --- |{' --- |' * len(TITLES)}",
        *rows,
        "",
        *(f"{number}. {reason[0].upper()}{reason[1:]}." for number, reason in enumerate(reasons, 1)),
    ])  # fmt: skip


def families_page() -> str:
    """Return docs/families.md."""
    refused = [
        f"- `{model_type}`: {', '.join(f'`{name}`' for name in family.unsupported)}"
        for model_type, family in sorted(FAMILIES.items())
        if family.unsupported
    ]
    needed = [
        f"- `{model_type}`: {', '.join(f'`{name}`' for name in family.needed)}"
        for model_type, family in sorted(FAMILIES.items())
        if family.needed
    ]
    return "\n".join([
        "# Families",
        "",
        "The model types that lissom compresses, by transformers' name, and what works with each. A technique that "
        "does not work is refused before it trains. Written by `lissom families`.",
        "",
        families_table(),
        "",
        "A model is refused when it is loaded if its config sets one of these:",
        "",
        *refused,
        "",
        "And if its config does not set these:",
        "",
        *needed,
    ])  # fmt: skip
