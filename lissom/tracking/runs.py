"""One MLflow run per stage: params, metrics over steps, artefacts, dataset lineage, system metrics.

The store is set by MLFLOW_TRACKING_URI; the default is `sqlite:///mlflow.db` in the working folder. The manifest holds
the run ids of a model's lineage.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lissom.errors import InputError
from lissom.redaction import STORE, redacted
from lissom.storage import host, is_dead, owner
from lissom.tracking.config import TrackingParams
from lissom.tracking.store import store_errors
from lissom.training.hooks import Hook

STAGE_TAG = "lissom.stage"
VARIANT_TAG = "lissom.variant"
PIPELINE_RUN_TAG = "lissom.pipeline_run"
"""Tag that all stages of a pipeline run and their parent run share."""

OWNER_TAG = "lissom.owner"
"""Tag with the host, pid and start time of the process that writes to the run."""

PIPELINE = "pipeline"
"""Name, and value of the stage's tag, of the parent run."""

DEFAULT_STORE = "sqlite:///mlflow.db"

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_RETRIES_AT_START, _RETRIES_LATER = "3", "6"  # MLflow doubles the wait: about 15 seconds, about two minutes
_LONGEST_PARAM = 6000  # MLflow's own limit
_LONGEST_NAME = 250  # of a metric or param
_LONGEST_DATASET_NAME = 500
_SECONDS_BETWEEN_SYSTEM_METRICS = 2
_ESCAPED = re.compile(r"[^\w\- /]|(?<!\w)/|/(?!\w)|^ | $|-(?=x)")
"""What MLflow refuses in a name, the dot that separates nested keys, and what would read as an escape."""


class Run:
    """The open run of a stage."""

    def __init__(self, run_id: str, parent: str | None = None) -> None:
        self.id = run_id
        self.parent = parent
        """Run of the whole pipeline; None for a stage that runs by itself."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested params under dotted names."""
        import mlflow

        mlflow.log_params({name: redacted(str(value))[:_LONGEST_PARAM] for name, value in flatten(params)})

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the numbers among nested metrics under dotted names; other texts and gaps are left to the artefacts."""
        import mlflow

        mlflow.log_metrics(dict(numbers_of(metrics)), step=step)

    def log_files(self, *paths: Path) -> None:
        """Log files as artefacts."""
        import mlflow

        for path in paths:
            mlflow.log_artifact(str(path))

    def log_dataset(self, name: str, source: str, digest: str, context: str) -> None:
        """Log that the run read a data set."""
        import mlflow
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset

        data = MetaDataset(
            CodeDatasetSource(tags={"lissom.source": source}), name=name[:_LONGEST_DATASET_NAME], digest=digest
        )
        mlflow.log_input(data, context=context)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        import mlflow

        mlflow.set_tags({name: redacted(value) for name, value in tags.items()})

    def log_to_parent(
        self, *paths: Path, metrics: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        """Log files, numbers and tags to the run of the whole pipeline, where there is one."""
        import mlflow

        if self.parent is None:
            return
        client = mlflow.MlflowClient()
        for path in paths:
            client.log_artifact(self.parent, str(path))
        for name, number in numbers_of(metrics or {}):
            client.log_metric(self.parent, name, number)
        for name, value in (tags or {}).items():
            client.set_tag(self.parent, name, redacted(value))


class SilentRun(Run):
    """A run that logs nothing, for all processes of a stage but the first."""

    def __init__(self) -> None:
        super().__init__("")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nothing."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log nothing."""

    def log_files(self, *paths: Path) -> None:
        """Log nothing."""

    def log_dataset(self, name: str, source: str, digest: str, context: str) -> None:
        """Log nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Log nothing."""

    def log_to_parent(
        self, *paths: Path, metrics: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        """Log nothing."""


class RunMetrics(Hook):
    """Logs a training's records to its run; `phase` is a prefix that distinguishes several trainings in one run."""

    def __init__(self, run: Run, phase: str = "") -> None:
        self._run = run
        self._phase = f"{phase}/" if phase else ""

    def on_record(self, record: dict[str, float]) -> None:
        """Log the metrics of a record at its step."""
        figures = {f"{self._phase}{name}": value for name, value in record.items() if name != "step"}
        self._run.log_metrics(figures, step=int(record["step"]))


@contextmanager
def open_run(
    stage: str, params: TrackingParams, tags: Mapping[str, str], run_id: str | None = None, pipeline: str = ""
) -> Iterator[Run]:
    """Open the run of a stage, or reopen `run_id`; it ends as FINISHED, or as FAILED if the block raises.

    With `pipeline`, the run is a child of the parent run of this pipeline run.

    If the server cannot be reached at the start, its address is probably wrong, and there are few retries. If it fails
    later, it is probably restarting, and there are more.

    Raises:
        InputError: the tracking server cannot be reached.
    """
    retries = {_RETRIES: os.environ.get(_RETRIES, _RETRIES_LATER)}
    use_store()
    os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", str(_SECONDS_BETWEEN_SYSTEM_METRICS))
    os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    import mlflow
    from mlflow.exceptions import MlflowException

    with store_errors(stage):
        experiment = mlflow.set_experiment(params.experiment)
        _close_dead_runs(experiment.experiment_id)
        parent = _parent_run(experiment.experiment_id, pipeline) if pipeline else None
        run_tags = {**tags, OWNER_TAG: owner()} | ({PIPELINE_RUN_TAG: pipeline} if pipeline else {})
        active = mlflow.start_run(
            run_id=run_id, run_name=stage, tags=run_tags, log_system_metrics=params.system_metrics,
            parent_run_id=None if run_id else parent,
        )  # fmt: skip
    before = os.environ[_RETRIES]
    os.environ |= retries
    try:
        with active, _parent_status(parent):
            try:
                yield Run(active.info.run_id, parent)
            except MlflowException:
                os.environ[_RETRIES] = "0"  # retries are exhausted, so do not retry to log the failure
                raise
    except MlflowException as error:
        server, reason = redacted(os.environ[STORE]), redacted(str(error).splitlines()[0])
        raise InputError(
            f"MLflow at {server} failed in the middle of {stage}: {reason}\n"
            "Run again when it is up: a training goes on from its last checkpoint"
        ) from None
    finally:
        os.environ[_RETRIES] = before


def _close_dead_runs(experiment: str) -> None:
    """Set the runs that killed processes of this host left as RUNNING to KILLED."""
    import mlflow

    client = mlflow.MlflowClient()
    running = f"attributes.status = 'RUNNING' and tags.`{OWNER_TAG}` LIKE '{host()}+%'"
    for run in client.search_runs([experiment], running):
        if is_dead(run.data.tags[OWNER_TAG]):
            client.set_terminated(run.info.run_id, "KILLED")


def _parent_run(experiment: str, pipeline: str) -> str:
    """Return the id of the parent run of a pipeline run, which its first stage creates."""
    import mlflow

    client = mlflow.MlflowClient()
    runs = client.search_runs(
        [experiment], f"tags.`{PIPELINE_RUN_TAG}` = '{pipeline}' and tags.`{STAGE_TAG}` = '{PIPELINE}'", max_results=1
    )
    if runs:
        return str(runs[0].info.run_id)
    tags = {PIPELINE_RUN_TAG: pipeline, STAGE_TAG: PIPELINE}
    return str(client.create_run(experiment, tags=tags, run_name=PIPELINE).info.run_id)


@contextmanager
def _parent_status(parent: str | None) -> Iterator[None]:
    """Set the status of the parent run to that of the stage: RUNNING, then FINISHED or FAILED."""
    import mlflow

    if parent is None:
        yield
        return
    client = mlflow.MlflowClient()
    client.set_tag(parent, OWNER_TAG, owner())
    client.update_run(parent, "RUNNING")
    try:
        yield
    except BaseException:
        client.set_terminated(parent, "FAILED")
        raise
    client.set_terminated(parent, "FINISHED")


def use_store() -> None:
    """Set MLflow's store from the environment or to the default, and disable telemetry and most log messages."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault(STORE, DEFAULT_STORE)
    os.environ.setdefault(_RETRIES, _RETRIES_AT_START)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for noisy in ("mlflow", "alembic", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings under dotted names that MLflow allows; different keys stay different."""
    for key, value in values.items():
        name = f"{prefix}{escaped(str(key))}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
            yield from flatten({str(number): part for number, part in enumerate(value)}, f"{name}.")
        else:
            yield shortened(name, _LONGEST_NAME), value


def numbers_of(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers among nested metrics; of `disturbed`, whose value is the reason or null, 1 or 0."""
    for name, value in flatten(metrics):
        if isinstance(value, int | float):
            yield name, float(value)
        elif name.rpartition(".")[2] == "disturbed":
            yield name, float(value is not None)


def escaped(text: str) -> str:
    """Return a text from outside as part of a name that MLflow allows.

    Letters, digits, underscores, dashes, single slashes and inner spaces stay; every other character becomes `-x`, its
    code in hexadecimal and `-`. Different texts have different results: a dash before an x is escaped as well.
    """
    return _ESCAPED.sub(lambda match: f"-x{ord(match[0]):x}-", text)


def shortened(name: str, longest: int) -> str:
    """Return a name of at most `longest` characters; the end of a longer one becomes the digest of all of it."""
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name[: longest - len(digest) - 1]}-{digest}"
