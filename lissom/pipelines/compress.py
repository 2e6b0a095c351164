"""All stages of the pipeline from one process: `lissom compress`.

Every stage runs in a child that is forked from a process which has imported torch, transformers and MLflow: that saves
the seconds that `dvc repro` spends on starting Python for each stage. A child starts from the same state every time and
gives its memory back, so its results are those of `dvc repro`. Finished stages are recorded with digests of what they
read and wrote; the next run starts with the first stage for which something has changed.
"""

import contextlib
import ctypes
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lissom.artifacts import METRICS, read_json, write_json
from lissom.components.pipeline_run import watched_files
from lissom.components.preflight import preflight
from lissom.components.runner import run_stage
from lissom.components.specs import METRICS_FOLDER, STAGES, StageSpec, folder_options, inputs_of, outputs_of
from lissom.console import note
from lissom.emissions.meter import detect_processor
from lissom.errors import InputError
from lissom.params import Params, load_params
from lissom.pipelines.digests import Digests

RECORD = Path("artifacts/compress.json")
"""What every finished task has read and written, as digests."""

# What stages import, also by their libraries. ONNX Runtime is left out: it starts a thread, which a fork would lose.
_IMPORTED = (
    "torch", "torch._dynamo", "torch.export", "torch.onnx", "torch._functorch.aot_autograd", "onnx", "onnxscript",
    "transformers", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "mlflow", "mlflow.pyfunc", "mlflow.data.meta_dataset", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store", "mlflow.system_metrics.system_metrics_monitor",
    "codecarbon", "pandas", "sklearn.linear_model", "sklearn.feature_extraction.text", "matplotlib.pyplot",
    "lissom.models.directory", "lissom.training.loop",
)  # fmt: skip
_FORKS = sys.platform == "linux"
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class Task:
    """One stage, for one variant where the stage runs once per variant."""

    spec: StageSpec
    variant: str

    @property
    def title(self) -> str:
        """Return the name of the task as DVC has it, for example `export@teacher`."""
        return f"{self.spec.name}@{self.variant}" if self.variant else self.spec.name


def tasks_of(params: Params) -> list[Task]:
    """Return all tasks of the pipeline in the order in which they run."""
    return [
        Task(spec, variant) for spec in STAGES for variant in (params.variants if spec.per_variant else ("",))
    ]  # fmt: skip


def compress(path: Path, overrides: Sequence[str] = (), *, force: bool = False) -> None:
    """Run all stages that are out of date, in the working folder.

    Args:
        path: the params file.
        overrides: `section.key=value`, as `load_params` takes them.
        force: run all stages.

    Raises:
        InputError: the params are wrong, or a stage failed; the stage has printed its message.
        SystemExit: the process received SIGTERM; the running stage has written a checkpoint.
    """
    params = load_params(path, overrides)
    preflight(params)
    options = ["--params", str(path), *(word for override in overrides for word in ("--set", override))]
    options += ["--pipeline-run", f"compress-{os.getpid()}-{time.time():.0f}"]
    tasks, digests, is_warm = tasks_of(params), Digests(), False
    record = {} if force or not RECORD.is_file() else read_json(RECORD)
    for number, task in enumerate(tasks, 1):
        place = f"{number:>{len(str(len(tasks)))}}/{len(tasks)} {task.title}"
        needs = _needs(task, params, digests)
        if record.get(task.title) == {"needs": needs, "wrote": _wrote(task, digests)}:
            note(f"{place}: up to date")
            continue
        if _FORKS and not is_warm:
            warm_up()
            is_warm = True
        start = time.monotonic()
        _run(task, [*folder_options(task.spec, task.variant), *options])
        record[task.title] = {"needs": needs, "wrote": _wrote(task, digests)}
        write_json(RECORD, record)
        note(f"{place}: {time.monotonic() - start:.0f} s{_result(task)}")


def _needs(task: Task, params: Params, digests: Digests) -> str:
    """Return a digest of all that a task reads: lissom's code, its sections of the params, files and folders."""
    sections = params.model_dump(mode="json", include=set(task.spec.sections))
    paths = [*watched_files(task.spec, params), *inputs_of(task.spec, task.variant).values()]
    return digests.of_value([digests.of_package(), sections, {path: digests.of_path(Path(path)) for path in paths}])


def _wrote(task: Task, digests: Digests) -> str:
    return digests.of_value([digests.of_path(Path(path)) for path in outputs_of(task.spec, task.variant).values()])


def _result(task: Task) -> str:
    """Return the score on dev of a stage that trains, as text."""
    metrics = read_json(Path(outputs_of(task.spec, task.variant)[METRICS_FOLDER]) / METRICS)
    score = metrics.get("dev_score")
    return f", score on dev {score:.4f}" if isinstance(score, float) else ""


def _run(task: Task, words: list[str]) -> None:
    """Run a task in a child process and wait for it."""
    start = multiprocessing.get_context("fork").Process if _FORKS else multiprocessing.get_context("spawn").Process
    process = start(target=_child, args=(task.spec.name, words), name=task.title)
    process.start()
    with _forwarded(process.pid):
        process.join()
    if process.exitcode == 128 + signal.SIGTERM:
        raise SystemExit(process.exitcode)
    if process.exitcode:
        cause = f"was killed by signal {-process.exitcode}" if process.exitcode < 0 else "failed; its message is above"
        raise InputError(f"{task.title} {cause}. Finished stages are kept: `lissom compress` goes on from here")


def warm_up() -> None:
    """Import what the stages import, and detect the processor; a missing extra is left to the stage, which names it."""
    for name in _IMPORTED:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    with contextlib.suppress(ModuleNotFoundError):
        detect_processor().join()
    gc.freeze()  # a child's collector leaves these objects alone, so that their memory stays shared


def _child(name: str, words: list[str]) -> None:
    if _FORKS:  # a stage must not outlive a killed parent: the next run would meet it
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    run_stage(name, words)


@contextlib.contextmanager
def _forwarded(process: int | None) -> Iterator[None]:
    """Pass SIGTERM on to the child, which writes a checkpoint and ends."""

    def forward(number: int, _: FrameType | None) -> None:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
