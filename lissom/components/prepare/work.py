"""The work of the stage."""

from lissom.components.stage import Outcome, Stage
from lissom.console import note
from lissom.data import prepare as preparing


def prepare(stage: Stage) -> Outcome:
    """Write the four splits and the data card."""
    card = preparing.prepare(stage.params.data, stage.outputs["data"])
    for line in card.notes:
        note(f"data: {line}")
    return Outcome(
        metrics=card.model_dump(mode="json", include={"name", "rows", "label_counts", "duplicates", "notes"})
    )
