"""The work of the stage."""

import pandas as pd

from lissom.artifacts import FINAL, LEDGER_JSON, MODEL_CARD, SERVING, read_json, write_text
from lissom.components.stage import Outcome, Stage
from lissom.data.prepare import load_card, load_table
from lissom.models.manifest import read_manifest
from lissom.report.ledger import Ledger, read_evaluations
from lissom.tracking.champion import decide, describe, obstacle, run_duel
from lissom.tracking.fetching import exported_folder
from lissom.tracking.model_card import model_card
from lissom.tracking.registry import default_name, move_aliases, register, verify, version_tags

_SAMPLE = 64


def register_model(stage: Stage) -> Outcome:
    """Register and verify the artefact, link it from the pipeline run, and move the aliases if the gates pass."""
    manifest, exported = read_manifest(stage.inputs["model"]), stage.inputs["export"]
    ledger = Ledger.model_validate(read_json(stage.inputs["report"] / LEDGER_JSON))
    final = read_evaluations(stage.inputs["evaluations"], stage.params.variants)[FINAL]
    data, chosen = load_card(stage.inputs["data"]), stage.params.tracking.registered_model
    card = model_card(ledger, final, manifest, data)
    write_text(stage.scratch / MODEL_CARD, card)
    stage.run.log_files(stage.scratch / MODEL_CARD)
    test = load_table(stage.inputs["data"], "test")
    rows = list(test.rows(range(min(_SAMPLE, len(test)))))
    sample = pd.DataFrame({"text": [row.text for row in rows]})
    if manifest.task.pair:
        sample["text_pair"] = [row.text_pair for row in rows]
    name = chosen or default_name(manifest.task.name)
    version = register(exported, name, card, version_tags(ledger, exported, manifest.base, data.source), sample)
    verify(exported, name, version, sample)
    stage.run.log_to_parent(tags={"lissom.registered": f"models:/{name}/{version}"})

    def differs(champion: str) -> str | None:
        _, folder = exported_folder(champion)
        return obstacle(read_json(exported / SERVING), read_json(folder / SERVING))

    def duel(champion: str) -> tuple[bool, str]:
        _, folder = exported_folder(champion)
        dev, test = (load_table(stage.inputs["data"], split) for split in ("dev", "test"))
        seconds, metric = stage.params.evaluate.seconds, manifest.task.metric
        outcome = run_duel(exported, folder, dev, test, manifest.task, stage.scratch, seconds)
        replaces, reason = decide(outcome, metric, stage.params.gates)
        return replaces, f"{reason}; {describe(outcome, metric)}"

    source = None if chosen else data.source
    result = move_aliases(name, version, ledger, stage.params.gates, source, differs, duel)
    return Outcome(metrics=result.model_dump(mode="json"))
