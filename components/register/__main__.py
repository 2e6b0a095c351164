"""Register the final artefact, load it back, and move the aliases that it deserves."""

import pandas as pd

from components.stage import Outcome, Stage, run_stage
from lissom.artifacts import LEDGER_JSON, METRICS, MODEL_CARD, VARIANTS, read_json, write_text
from lissom.data.prepare import load_table
from lissom.models.manifest import read_manifest
from lissom.report.ledger import Ledger, read_evaluations
from lissom.tracking.model_card import model_card
from lissom.tracking.registry import at_speed, move_aliases, register, verify, version_tags

_SAMPLE = 64


def work(stage: Stage) -> Outcome:
    """Register, verify, judge."""
    metrics = stage.inputs["metrics"]
    manifest = read_manifest(stage.inputs["model"])
    ledger = Ledger.model_validate(read_json(stage.inputs["report"] / LEDGER_JSON))
    final = read_evaluations(metrics)[VARIANTS[-1]]
    exported = at_speed(stage.inputs["export"], None if final.exits is None else final.exits.chosen, stage.scratch)
    card = model_card(ledger, final, manifest, read_json(metrics / "prepare" / METRICS)["rows"])
    write_text(stage.scratch / MODEL_CARD, card)
    stage.run.log_files(stage.scratch / MODEL_CARD)
    rows = list(load_table(stage.inputs["data"], "test").rows(range(_SAMPLE)))
    sample = pd.DataFrame({"text": [row.text for row in rows]})
    if manifest.task.pair:
        sample["text_pair"] = [row.text_pair for row in rows]
    name = f"lissom-{manifest.task.name}"
    version = register(exported, name, card, version_tags(ledger, exported, manifest.base), sample)
    verify(exported, name, version, sample)
    result = move_aliases(name, version, ledger, stage.params.gates)
    return Outcome(metrics=result.model_dump(mode="json"))


if __name__ == "__main__":
    run_stage("register", work, inputs=("data", "model", "export", "metrics", "report"))
