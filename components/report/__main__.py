"""Write the ledger and the page."""

from components.stage import Outcome, Stage, run_stage
from lissom.artifacts import LEDGER_JSON, LEDGER_MARKDOWN, REPORT_PAGE, write_json, write_text
from lissom.models.manifest import read_manifest
from lissom.report.ledger import build_ledger, read_evaluations
from lissom.report.page import render_page
from lissom.report.tables import markdown


def work(stage: Stage) -> Outcome:
    """Read all metrics, write page, Markdown and JSON, and log them to the run."""
    metrics, folder = stage.inputs["metrics"], stage.outputs["report"]
    ledger, evaluations = build_ledger(metrics), read_evaluations(metrics)
    page = render_page(ledger, evaluations, read_manifest(stage.inputs["model"]), metrics)
    write_text(folder / REPORT_PAGE, page)
    write_text(folder / LEDGER_MARKDOWN, markdown(ledger))
    write_json(folder / LEDGER_JSON, ledger.model_dump(mode="json"))
    stage.run.log_files(*sorted(folder.iterdir()))
    final = ledger.rows[-1]
    return Outcome(
        metrics={
            "score_kept": ledger.headline.score_kept,
            "speedup": ledger.headline.speedup,
            "times_smaller": ledger.headline.times_smaller,
            "payback_inferences": ledger.headline.payback.inferences,
            ledger.score: final.score,
            "milliseconds": final.milliseconds,
            "megabytes": final.megabytes,
            "compressing_kwh": ledger.compressing_kwh,
            "compressing_co2e_g": ledger.compressing_kwh * ledger.intensity_g_per_kwh,
            "inference_wh_per_1000": ledger.inference.artifact.mean * 1e6,
        }
    )


if __name__ == "__main__":
    run_stage("report", work, inputs=("model", "metrics"), outputs=("report",))
