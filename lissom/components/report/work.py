"""The work of the stage."""

import shutil

from lissom.artifacts import (
    BOAMPS_INFERENCE,
    BOAMPS_TRAINING,
    CHANGES,
    CONFUSION,
    FINAL,
    LEDGER_JSON,
    LEDGER_MARKDOWN,
    METRICS,
    POINTS,
    REPORT_PAGE,
    SCI_JSON,
    SUMMARY,
    read_json,
    write_json,
    write_text,
)
from lissom.components.specs import METRICS_FOLDER
from lissom.components.stage import Outcome, Stage
from lissom.data.prepare import load_card
from lissom.emissions.sci import in_words
from lissom.evaluate.paired import read_changes
from lissom.models.manifest import read_manifest
from lissom.report.ledger import build_ledger, read_evaluations
from lissom.report.page import render_page
from lissom.report.plot_data import confusion, points, score_over_latency
from lissom.report.standards import boamps_inference, boamps_training, sci_statement
from lissom.report.summary import summary
from lissom.report.tables import markdown


def write_report(stage: Stage) -> Outcome:
    """Write page, Markdown and JSON, and log them to the stage's run and to the pipeline's run.

    What DVC shows of it lies in the metrics: summary.json, points.json and confusion.json.
    """
    folder, manifest = stage.outputs["report"], read_manifest(stage.inputs["model"])
    evaluations = read_evaluations(stage.inputs["evaluations"], stage.params.variants)
    ledger = build_ledger(manifest, evaluations, read_json(stage.inputs["emissions"] / METRICS))
    measured, data = evaluations[FINAL], load_card(stage.inputs["data"])
    sci = sci_statement(ledger, measured, manifest, stage.params.emissions)
    changes = stage.inputs["evaluations"] / FINAL / CHANGES
    page = render_page(ledger, evaluations, manifest, data, list(read_changes(changes)), in_words(sci))
    write_text(folder / REPORT_PAGE, page)
    shutil.copy(changes, folder / CHANGES)
    write_text(folder / LEDGER_MARKDOWN, f"{markdown(ledger)}- {in_words(sci)}\n")
    write_json(folder / LEDGER_JSON, ledger.model_dump(mode="json"))
    write_json(folder / SCI_JSON, sci.model_dump(mode="json"))
    write_json(folder / BOAMPS_TRAINING, boamps_training(ledger, measured, manifest, data))
    write_json(folder / BOAMPS_INFERENCE, boamps_inference(ledger, measured, manifest, data))
    shown = stage.outputs[METRICS_FOLDER]
    write_json(shown / SUMMARY, summary(ledger, sci))
    write_json(shown / POINTS, score_over_latency(*points(ledger)))
    write_json(shown / CONFUSION, confusion(measured.quality))
    final = ledger.rows[-1]
    headline, inference = ledger.headline, ledger.inference
    metrics = {
        ledger.metric.name: final.score,
        "kept": None if headline.kept is None else headline.kept.value,
        **{f"speedup_{name}": speedup.value for name, speedup in headline.speedups.items()},
        "milliseconds": final.milliseconds.value,
        "megabytes": final.megabytes,
        "times_smaller": headline.times_smaller,
        "payback_inferences": headline.payback.inferences,
        "joules_per_1000_inferences": inference.artifact.value,
        "compressing_wh": ledger.spent.compressing.value * 1000,
        "compressing_co2e_g": ledger.spent.compressing.value * ledger.intensity_g_per_kwh,
        "energy_method": "measured" if ledger.is_measured else "model",
        "energy_measured": ledger.is_measured,  # MLflow's pages have numbers alone
        "disturbed": headline.conditions.disturbed or inference.conditions.disturbed,
        "metric": ledger.metric.model_dump(),
    }
    files = sorted(folder.iterdir())
    stage.run.log_files(*files)
    stage.run.log_to_parent(*files, metrics=metrics)
    return Outcome(metrics=metrics)
