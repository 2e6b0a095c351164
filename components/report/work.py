"""The work of the stage."""

from components.specs import METRICS_FOLDER
from components.stage import Outcome, Stage
from lissom.artifacts import (
    BOAMPS_INFERENCE,
    BOAMPS_TRAINING,
    CONFUSION,
    FINAL,
    LEDGER_JSON,
    LEDGER_MARKDOWN,
    METRICS,
    POINTS,
    REPORT_PAGE,
    SCI_JSON,
    SUMMARY,
    TEACHER,
    read_json,
    write_json,
    write_text,
)
from lissom.data.prepare import load_card
from lissom.emissions.sci import in_words
from lissom.models.manifest import read_manifest
from lissom.report.ledger import build_ledger, eager_milliseconds, read_evaluations
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
    write_text(folder / REPORT_PAGE, render_page(ledger, evaluations, manifest, data, in_words(sci)))
    write_text(folder / LEDGER_MARKDOWN, f"{markdown(ledger)}- {in_words(sci)}\n")
    write_json(folder / LEDGER_JSON, ledger.model_dump(mode="json"))
    write_json(folder / SCI_JSON, sci.model_dump(mode="json"))
    write_json(folder / BOAMPS_TRAINING, boamps_training(ledger, measured, manifest, data))
    write_json(folder / BOAMPS_INFERENCE, boamps_inference(ledger, measured, manifest, data))
    shown = stage.outputs[METRICS_FOLDER]
    write_json(shown / SUMMARY, summary(ledger, sci))
    write_json(shown / POINTS, score_over_latency(*points(ledger, eager_milliseconds(evaluations[TEACHER]))))
    write_json(shown / CONFUSION, confusion(measured.quality))
    final = ledger.rows[-1]
    metrics = {
        "score_kept": ledger.headline.score_kept,
        "speedup": ledger.headline.speedup,
        "times_smaller": ledger.headline.times_smaller,
        "payback_inferences": ledger.headline.payback.inferences,
        ledger.metric.name: final.score,
        "metric": ledger.metric.model_dump(),
        "milliseconds": final.milliseconds,
        "megabytes": final.megabytes,
        "compressing_kwh": ledger.compressing_kwh,
        "compressing_co2e_g": ledger.compressing_kwh * ledger.intensity_g_per_kwh,
        "inference_wh_per_1000": ledger.inference.artifact.mean * 1e6,
    }
    files = sorted(folder.iterdir())
    stage.run.log_files(*files)
    stage.run.log_to_parent(*files, metrics=metrics)
    return Outcome(metrics=metrics)
