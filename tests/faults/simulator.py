"""One fault at one point of a stage: the calls that write are counted, and the n-th one fails or kills.

A stage is the runner's own, with a work of milliseconds and a constant reading of energy; every run is a fork.
"""

import errno
import os
import random
import shutil
import stat
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import mlflow.data.meta_dataset
import mlflow.pyfunc
import mlflow.store.tracking.sqlalchemy_store
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from safetensors import SafetensorError

from lissom.artifacts import (
    DATA_CARD,
    EXPORT_RECORD,
    LEDGER_JSON,
    ONNX,
    REPORT_PAGE,
    SERVING,
    TOKENIZER,
    write_json,
    write_text,
)
from lissom.components import runner
from lissom.components.specs import METRICS_FOLDER, STAGES, StageSpec, spec_of
from lissom.components.stage import Outcome, Stage
from lissom.data.tables import Row, write_table
from lissom.emissions.meter import EnergyReading
from lissom.ending import finish_with_message
from lissom.export.onnx import write_serving
from lissom.models import tensor_file
from lissom.params import check_params
from lissom.tracking import registry
from lissom.training.checkpoint import Progress
from lissom.training.teacher import save_logits
from tests.unit import tiny

KINDS = ("kill", "torn", "ENOSPC", "EIO", "HTTP 500", "connection", "clock")
KILLED = 9
_OF_FILES = ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir")
_OF_MLFLOW = ("set_experiment", "start_run", "log_params", "log_metrics", "log_artifact", "set_tags")
_OF_CLIENT = (
    "create_run", "create_registered_model", "create_model_version", "log_artifact", "log_metric",
    "set_model_version_tag", "set_registered_model_alias", "set_registered_model_tag", "set_tag", "set_terminated",
    "update_model_version", "update_run",
)  # fmt: skip
MODEL = "toy"


@dataclass
class Fault:
    """What happens at the n-th call; no fault counts only."""

    kind: str = ""
    number: int = -1
    calls: int = 0

    def happens(self) -> bool:
        self.calls += 1
        return self.calls == self.number + 1

    def strike(self, name: str) -> None:
        """Kill the process, raise what the call would, or let the clock jump."""
        if self.kind in ("kill", "torn"):
            os._exit(KILLED)
        if self.kind == "clock":
            now = time.time
            time.time = lambda: now() - 86_400
        elif name in (*_OF_MLFLOW, *_OF_CLIENT):
            raise MlflowException(f"{self.kind}: the tracking server failed")
        elif self.kind in ("ENOSPC", "EIO"):
            number = getattr(errno, self.kind)
            raise OSError(number, os.strerror(number))

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if self.happens():
                if self.kind == "torn" and name == "fsync" and stat.S_ISREG(os.fstat(given[0]).st_mode):
                    os.truncate(f"/proc/self/fd/{given[0]}", os.fstat(given[0]).st_size // 2)
                self.strike(name)
            return real(*given, **named)

        return call

    def saving(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return `save_file` that may write half of the file, with the text that safetensors has for an error."""

        def call(tensors: Any, path: Path, **named: Any) -> None:
            strikes = self.happens()
            real(tensors, path, **named)
            if strikes:
                if self.kind not in ("clock", "HTTP 500", "connection"):
                    os.truncate(path, path.stat().st_size // 2)
                try:
                    self.strike("save_file")
                except OSError as error:
                    raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from None

        return call

    def install(self) -> None:
        for name in _OF_FILES:
            setattr(os, name, self.around(name, getattr(os, name)))
        for name in _OF_MLFLOW:
            setattr(mlflow, name, self.around(name, getattr(mlflow, name)))
        for name in _OF_CLIENT:
            setattr(mlflow.MlflowClient, name, self.around(name, getattr(mlflow.MlflowClient, name)))
        tensor_file.save_file = self.saving(tensor_file.save_file)


def stage_of(seed: int) -> str:
    """Return the stage of a seed: all in turn, `register` every 33rd time, since MLflow takes seconds for a version."""
    *others, register = (spec.name for spec in STAGES)
    return register if seed % 33 == 32 else others[seed % len(others)]


def fault_of(seed: int, calls: int) -> Fault:
    rng = random.Random(seed)
    return Fault(rng.choice(KINDS), rng.randrange(calls))


def work_of(name: str) -> Callable[[Stage], Outcome]:
    """Return a work that writes what the stage does, with the project's own functions, and computes next to nothing."""
    return {"prepare": _prepare, "export": _export, "report": _report, "register": _register}.get(
        name, _train_or_measure
    )


def _prepare(stage: Stage) -> Outcome:
    folder = stage.outputs["data"]
    for split in ("train", "dev", "test"):
        write_table(folder / f"{split}.arrow", [Row("the good film", None, "good")])
    write_json(folder / DATA_CARD, {"rows": 1})
    return Outcome({"rows": 1.0})


def _train_or_measure(stage: Stage) -> Outcome:
    """Train three steps of one sum, with a checkpoint after each, where the stage trains."""
    if not stage.spec.trains:
        stage.run.log_metrics({"score": 1.0})
        return Outcome({"score": 1.0})
    if "logits" in stage.outputs:
        save_logits(torch.ones(3, 2), stage.outputs["logits"])
    model = tiny.model("bert")
    checkpoints = stage.checkpoints()
    found = checkpoints.restore("toy", model.network)
    parameter = next(model.network.parameters())
    for step in range(found.progress.step if found else 0, 3):
        parameter.data.add_(step + 1.0)
        checkpoints.save("toy", model.network, [], Progress(step=step + 1))
    return Outcome({"sum": float(parameter.sum())}, [{"step": 3.0, "loss": 1.0}], model, "toy")


def _export(stage: Stage) -> Outcome:
    folder = stage.outputs["export"]
    (folder / ONNX).write_bytes(b"graph")
    write_text(folder / TOKENIZER, "{}")
    write_serving(folder, {"format": "onnx"})
    write_json(folder / EXPORT_RECORD, {"files": {ONNX: 5}})
    return Outcome({"megabytes": 5e-6})


def _report(stage: Stage) -> Outcome:
    write_text(stage.outputs["report"] / REPORT_PAGE, "<html></html>")
    write_json(stage.outputs["report"] / LEDGER_JSON, {"rows": []})
    stage.run.log_to_parent(stage.outputs["report"] / LEDGER_JSON, metrics={"score": 1.0})
    return Outcome({"score": 1.0})


def _register(stage: Stage) -> Outcome:
    """Register a folder, and move both aliases to its version."""
    sample, tags = pd.DataFrame({"text": ["the good film"]}), {"files_sha256": "0"}
    version = registry.register(stage.inputs["export"], MODEL, "# card", tags, sample)
    for alias in (registry.CHALLENGER, registry.CHAMPION):
        registry._set_alias(mlflow.MlflowClient(), MODEL, alias, version)
    stage.run.log_to_parent(tags={"lissom.registered": MODEL})
    return Outcome({"aliases": 2.0})


class ConstantMeter:
    """Stands for the energy meter: CodeCarbon takes a second to start, and its figures are measurements."""

    def __init__(self, country: str, *, alone: bool) -> None:
        scope = "process" if alone else "machine"
        figures = dict.fromkeys(
            [name for name, field in EnergyReading.model_fields.items() if field.annotation is float], 1.0
        )
        self.reading = EnergyReading(**figures, country=country, method="model", scope=scope, tracker="constant")

    def __enter__(self) -> "ConstantMeter":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _nothing_detected() -> Thread:
    thread = Thread()
    thread.start()
    return thread


def run(folder: Path, stage: str, fault: Fault) -> tuple[int, str, int]:
    """Run a stage in a fork; return its exit code, what it said, and how many calls could have failed."""
    said, counted = folder.parent / "said", folder.parent / "counted"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _become_stage(folder, said)
            fault.install()
            spec = spec_of(stage)
            finish_with_message(stage, lambda: runner._run(spec, _params(), None, _arguments(spec)))
            code = 0
        except SystemExit as end:
            print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        with counted.open("w") as file:
            file.write(str(fault.calls))
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, said.read_text(), int(counted.read_text()) if code == 0 else 0


def _become_stage(folder: Path, said: Path) -> None:
    import tempfile

    os.chdir(folder)
    os.environ |= {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "LISSOM_DEBUG": "0"}
    tempfile.tempdir = str(folder / "tmp")
    sys.stderr = said.open("w")
    runner.work_of = work_of
    registry._answers = lambda exported, sample: pd.DataFrame({"label": ["good"] * len(sample)})
    runner.EnergyMeter, runner.detect_processor = ConstantMeter, _nothing_detected
    runner._log_data = lambda run, data: None


def _params() -> Any:
    tracking = {"experiment": "faults", "system_metrics": False}
    sections = {"base": {"model": "dir:base"}, "data": {"source": "files:data"}, "prune": {"method": "first_order"}}
    return check_params({**sections, "tracking": tracking})


def _arguments(spec: StageSpec) -> dict[str, Any]:
    inputs = {f"{name}_input": Path("inputs") for name in spec.inputs} | {f"{name}_of": [] for name in spec.inputs}
    outputs = {f"{name}_output": Path("artifacts") / name for name in (*spec.outputs, METRICS_FOLDER)}
    rest = {
        "checkpoints": Path("checkpoints"),
        "checkpoint_seconds": 0.0,
        "pipeline_run": "run",
        "executor_input": None,
    }
    return inputs | outputs | rest | {"variant": "teacher"}


def new_folder(folder: Path, template: Path | None = None) -> Path:
    """Make a workspace; the template has a database whose tables exist."""
    for name in ("inputs", "tmp"):
        (folder / name).mkdir(parents=True)
    if template:
        shutil.copy(template / "mlflow.db", folder)
    write_text(folder / "inputs" / SERVING, "{}")
    return folder
