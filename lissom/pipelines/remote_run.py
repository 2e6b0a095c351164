"""Running the pipeline on Kubeflow and fetching its report from MLflow."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lissom.artifacts import LEDGER_JSON, METRICS, read_json
from lissom.errors import InputError
from lissom.params import Params
from lissom.redaction import STORE, redacted
from lissom.report.ledger import Ledger
from lissom.report.tables import markdown
from lissom.storage import scratch_folder
from lissom.tracking.runs import PIPELINE_RUN_TAG, STAGE_TAG, use_store
from lissom.tracking.store import store_errors


@dataclass(frozen=True)
class Result:
    """Results of a pipeline run."""

    figures: dict[str, Any]
    """Metrics of the stage `report`."""
    ledger: Ledger
    markdown: str
    """The ledger."""
    error: str = ""
    """Why the run failed; empty if it succeeded."""


def run_on_kubeflow(params: Params, train_image: str, export_image: str) -> Result:
    """Submit the pipeline, wait for its end, and return its results.

    The server is set by KF_PIPELINES_ENDPOINT. The report is fetched from MLflow, whose server must be reachable from
    the cluster (`cluster.tracking_uri`) and from this process (MLFLOW_TRACKING_URI, by default the same address).

    Raises:
        InputError: a server is missing or cannot be reached, or the run has no report in MLflow.
    """
    from lissom.pipelines.compiling import compile_pipeline
    from lissom.pipelines.images import NAME, Images
    from lissom.pipelines.server import Server

    if params.cluster.tracking_uri is None:
        raise InputError("cluster.tracking_uri is null: name the MLflow server that the cluster logs to")
    os.environ.setdefault(STORE, params.cluster.tracking_uri)
    server = Server(None, os.environ.get("KF_PIPELINES_NAMESPACE"), os.environ.get("KF_PIPELINES_TOKEN"))
    with scratch_folder() as folder:
        package = folder / "compression.yaml"
        compile_pipeline(params, Images(train_image, export_image), package)
        run = server.submit(package, params.tracking.experiment, NAME)
    print(f"run {run}", flush=True)
    state, tasks = server.wait(run)
    failures = "; ".join(f"{name}: {error or state}" for name, state, error in tasks if state == "FAILED")
    error = "" if state == "SUCCEEDED" else f"run {run}: {state}; {failures}"
    return fetch_report(run, params.tracking.experiment, error)


def fetch_report(run: str, experiment: str, error: str = "") -> Result:
    """Return what the report stage of a Kubeflow run logged to MLflow.

    Raises:
        InputError: there is no such run; the message is `error` if it is given.
    """
    import mlflow

    use_store()
    with store_errors(f"run {run}"):
        runs = mlflow.search_runs(
            experiment_names=[experiment], output_format="list", filter_string=(
                f"tags.`{PIPELINE_RUN_TAG}` = '{run}' and tags.`{STAGE_TAG}` = 'report' and status = 'FINISHED'"
            ),
        )  # fmt: skip
    if not runs:
        raise InputError(error or f"run {run}: MLflow at {redacted(os.environ[STORE])} has no report of it")
    with scratch_folder() as folder:
        files = Path(mlflow.artifacts.download_artifacts(run_id=runs[0].info.run_id, dst_path=str(folder)))
        ledger = Ledger.model_validate(read_json(files / LEDGER_JSON))
        return Result(read_json(files / METRICS), ledger, markdown(ledger), error)
