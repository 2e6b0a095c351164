"""One fault at one point of a toy stage: the calls that write are counted, and the n-th one fails or kills.

The stage is the runner's own, with a work of milliseconds and a constant reading of energy; every run is a fork.
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
import mlflow.store.tracking.sqlalchemy_store
from mlflow.exceptions import MlflowException
from safetensors import SafetensorError

from lissom.components import runner
from lissom.components.specs import spec_of
from lissom.components.stage import Outcome, Stage
from lissom.emissions.meter import EnergyReading
from lissom.ending import finish_with_message
from lissom.models import tensor_file
from lissom.params import check_params
from lissom.training.checkpoint import Progress
from tests.unit import tiny

KINDS = ("kill", "torn", "ENOSPC", "EIO", "HTTP 500", "connection", "clock")
KILLED = 9
_OF_FILES = ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir")
_OF_MLFLOW = ("set_experiment", "start_run", "log_params", "log_metrics", "log_artifact", "set_tags")


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
        elif name in _OF_MLFLOW:
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
        tensor_file.save_file = self.saving(tensor_file.save_file)


def fault_of(seed: int, calls: int) -> Fault:
    rng = random.Random(seed)
    return Fault(rng.choice(KINDS), rng.randrange(calls))


def work(stage: Stage) -> Outcome:
    """Train three steps of one sum, with a checkpoint after each."""
    model = tiny.model("bert")
    checkpoints = stage.checkpoints()
    found = checkpoints.restore("toy", model.network)
    parameter = next(model.network.parameters())
    for step in range(found.progress.step if found else 0, 3):
        parameter.data.add_(step + 1.0)
        checkpoints.save("toy", model.network, [], Progress(step=step + 1))
    return Outcome({"sum": float(parameter.sum())}, [{"step": 3.0, "loss": 1.0}], model, "toy")


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


def run(folder: Path, fault: Fault) -> tuple[int, str, int]:
    """Run the stage in a fork; return its exit code, what it said, and how many calls could have failed."""
    said, counted = folder.parent / "said", folder.parent / "counted"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _become_stage(folder, said)
            fault.install()
            finish_with_message("prune", lambda: runner._run(spec_of("prune"), _params(), None, _arguments()))
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
    runner.work_of = lambda name: work
    runner.EnergyMeter, runner.detect_processor = ConstantMeter, _nothing_detected
    runner._log_data = lambda run, data: None


def _params() -> Any:
    tracking = {"experiment": "faults", "system_metrics": False}
    sections = {"base": {"model": "dir:base"}, "data": {"source": "files:data"}, "prune": {"method": "first_order"}}
    return check_params({**sections, "tracking": tracking})


def _arguments() -> dict[str, Any]:
    inputs = {f"{name}_input": Path("inputs") for name in ("data", "model", "logits")}
    outputs = {f"{name}_output": Path("artifacts") / name for name in ("model", "metrics")}
    rest = {"checkpoints": Path("checkpoints"), "checkpoint_seconds": 0.0, "pipeline_run": "", "executor_input": None}
    return inputs | outputs | rest


def new_folder(folder: Path, template: Path | None = None) -> Path:
    """Make a workspace; the template has a database whose tables exist."""
    for name in ("inputs", "tmp"):
        (folder / name).mkdir(parents=True)
    if template:
        shutil.copy(template / "mlflow.db", folder)
    return folder
