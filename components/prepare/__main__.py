"""Read, check and split the data."""

from components.stage import Outcome, Stage, run_stage
from lissom.data.prepare import prepare


def work(stage: Stage) -> Outcome:
    """Write the four splits and the data card."""
    card = prepare(stage.params.data, stage.outputs["data"])
    return Outcome(
        metrics=card.model_dump(mode="json", include={"name", "rows", "label_counts", "duplicates", "notes"})
    )


if __name__ == "__main__":
    run_stage("prepare", work, outputs=("data",))
