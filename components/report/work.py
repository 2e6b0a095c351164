"""The work of the stage."""

from components.stage import Outcome, Stage
from lissom.artifacts import LEDGER_JSON, LEDGER_MARKDOWN, METRICS, REPORT_PAGE, read_json, write_json, write_text
from lissom.data.prepare import load_card
from lissom.models.manifest import read_manifest
from lissom.report.ledger import build_ledger, read_evaluations
from lissom.report.page import render_page
from lissom.report.tables import markdown


def write_report(stage: Stage) -> Outcome:
    """Write page, Markdown and JSON, and log them to the stage's run and to the pipeline's run."""
    folder, manifest = stage.outputs["report"], read_manifest(stage.inputs["model"])
    evaluations = read_evaluations(stage.inputs["evaluations"], stage.params.variants)
    ledger = build_ledger(manifest, evaluations, read_json(stage.inputs["emissions"] / METRICS))
    page = render_page(ledger, evaluations, manifest, load_card(stage.inputs["data"]))
    write_text(folder / REPORT_PAGE, page)
    write_text(folder / LEDGER_MARKDOWN, markdown(ledger))
    write_json(folder / LEDGER_JSON, ledger.model_dump(mode="json"))
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
