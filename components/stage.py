"""The frame of every stage: `python -m components.<stage>` with the same options under DVC and Kubeflow.

It reads the params, opens the MLflow run, measures the energy, lets the stage work in temporary folders, and moves
these into place when all is complete.
"""

import hashlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.arguments import METRICS_FOLDER, metrics_folder, parse, read_params
from components.executor import tell
from components.layout import layout_of
from components.trainjob import is_wanted, run_as_trainjob
from lissom.artifacts import (
    EMISSIONS,
    HISTORY,
    METRICS,
    REPORT_PAGE,
    whole_folder,
    write_json,
    write_text,
)
from lissom.emissions.meter import EnergyMeter, EnergyReading, sum_of
from lissom.errors import InputError, advice_for
from lissom.parallel.config import ParallelParams
from lissom.parallel.launch import joined, launch, remember_run, remembered_run, say
from lissom.params import Params
from lissom.tracking.runs import PIPELINE_RUN_TAG, STAGE_TAG, Run, SilentRun, flatten, open_run
from lissom.training.stopping import Stopped

if TYPE_CHECKING:
    from lissom.data.encoding import Encoded
    from lissom.models.compressed import CompressedModel
    from lissom.parallel.world import World
    from lissom.training.checkpoint import Checkpoints

_SECTIONS = {"prepare": "data", "register": "gates"}
"""Stages whose section is not called like them."""


@dataclass
class Outcome:
    """What a stage leaves behind, besides the files that it wrote itself."""

    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    model: "CompressedModel | None" = None
    """Written to the output `model`, with this stage as its last step."""
    method: str = ""


@dataclass(frozen=True)
class Stage:
    """What a stage's work is given."""

    name: str
    params: Params
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    """Temporary folders; their content is moved into place when the stage is complete."""
    run: Run
    checkpoint_folder: Path
    checkpoint_seconds: float
    scratch: Path
    """Removed at the end."""
    option: str
    """The variant, for stages that run once per variant."""
    world: "World | None"
    """The processes that run this stage, each the same code; None for this one alone. The first writes and logs."""

    def checkpoints(self) -> "Checkpoints":
        """Return where this stage's training checkpoints to; removed when the stage is complete."""
        from lissom.training.checkpoint import Checkpoints

        writes = self.world is None or self.world.is_main
        return Checkpoints(self.checkpoint_folder, self.checkpoint_seconds, writes=writes)

    def load(self, name: str) -> "CompressedModel":
        """Load the model directory that is the input `name`."""
        from lissom.models.directory import load

        return load(self.inputs[name])

    def encode(self, model: "CompressedModel", *splits: str) -> "Encoded":
        """Tokenise splits of the input `data`, one after the other, for a model."""
        from lissom.data.encoding import encode
        from lissom.data.prepare import load_table

        task = model.manifest.task
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        return encode(
            [load_table(self.inputs["data"], split) for split in splits],
            model.tokenizer,
            task.max_length,
            task.coding,
            folder,
        )

    def section(self) -> dict[str, Any]:
        """Return the stage's own params as plain values."""
        section = getattr(self.params, _SECTIONS.get(self.name, self.name), None)
        return {} if section is None else section.model_dump(mode="json")


def run_stage(
    name: str,
    work: Callable[[Stage], Outcome],
    *,
    inputs: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
    option: str | None = None,
    trains: bool = False,
) -> None:
    """Parse the command line and run a stage; a user's mistake ends with one message and exit code 1.

    A stage that `trains` runs in as many processes as `parallel` says: this one starts them, and waits.
    """
    arguments = parse(name, inputs, outputs, option)
    try:
        params = read_params(arguments)
        layout, told = layout_of(name, params, arguments) if trains else (ParallelParams(), [])
        if joined():
            _take_part(name, params, layout, arguments, work, inputs, outputs, option)
        elif is_wanted(layout):
            run_as_trainjob(name, layout, arguments, inputs, (*outputs, METRICS_FOLDER))
        elif layout.spreads:
            launch(f"components.{name}", [*sys.argv[1:], *told], layout)
        else:
            _run(name, params, None, arguments, work, inputs, outputs, option)
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except InputError as error:
        sys.exit(f"{name}: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"{name}: {advice_for(error)}")


def _take_part(name: str, params: Params, layout: ParallelParams, *rest: Any) -> None:
    """Run a stage as one of several processes; what is to be said to the user goes to the one that launched them."""
    from lissom.parallel.world import join

    try:
        with join(layout) as world:
            _run(name, params, world, *rest)
    except InputError as error:
        say(str(error))
        sys.exit(1)
    except Stopped as stopped:
        say(str(stopped))
        sys.exit(1)


def _run(
    name: str,
    params: Params,
    world: "World | None",
    arguments: dict[str, Any],
    work: Callable[[Stage], Outcome],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    option: str | None,
) -> None:
    with _frame(name, params, world, arguments, inputs, outputs, option) as stage:
        outcome, reading = _measured(stage, work)
        _write(stage, outcome, reading)
    if world is not None and not world.is_main:
        return
    if arguments.get("page_output"):
        page = (arguments["report_output"] / REPORT_PAGE).read_text(encoding="utf-8")
        write_text(arguments["page_output"], page)
    if arguments["executor_input"]:
        costs = reading.model_dump(mode="json", include={"energy_kwh", "co2e_g", "seconds"})
        facts = {"stage": name, "method": outcome.method, "mlflow_run": stage.run.id}
        tell(arguments["executor_input"], dict(flatten(outcome.metrics)) | costs, facts)
    shutil.rmtree(stage.checkpoint_folder, ignore_errors=True)


@contextmanager
def _frame(
    name: str,
    params: Params,
    world: "World | None",
    arguments: dict[str, Any],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    option: str | None,
) -> Iterator[Stage]:
    variant = arguments[option] if option else ""
    title = f"{name}@{variant}" if variant else name
    is_main = world is None or world.is_main
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lissom-")))
        sources = {path: arguments[f"{path}_input"] for path in inputs if path != METRICS_FOLDER}
        if METRICS_FOLDER in inputs:
            sources[METRICS_FOLDER] = metrics_folder(arguments, scratch)
        for path, folder in sources.items():
            if not folder.exists():
                raise InputError(
                    f"--{path.replace('_', '-')}-input {folder}: no such folder; run the stage that makes it, "
                    "or dvc repro"
                )
        tags = {STAGE_TAG: name, "lissom.variant": variant}
        if arguments["pipeline_run"]:
            tags[PIPELINE_RUN_TAG] = arguments["pipeline_run"]
        run: Run = SilentRun()
        if is_main:
            run = stack.enter_context(open_run(title, params.tracking, tags, remembered_run()))
            if world is not None:
                remember_run(run.id)
        folders = {}
        for path in (*outputs, METRICS_FOLDER):
            target = arguments[f"{path}_output"]
            # The others write as well, and what they write goes with their scratch.
            folders[path] = stack.enter_context(whole_folder(target if is_main else scratch / "outputs" / path))
        checkpoints = arguments["checkpoints"] / title.replace("@", "-")
        seconds = arguments["checkpoint_seconds"]
        yield Stage(name, params, sources, folders, run, checkpoints, seconds, scratch, variant, world)


def _measured(stage: Stage, work: Callable[[Stage], Outcome]) -> tuple[Outcome, EnergyReading]:
    stage.run.log_params({stage.name: stage.section()})
    if "data" in stage.inputs:
        _log_data(stage.run, stage.inputs["data"])
    meter = EnergyMeter(stage.params.emissions.country)
    counts = stage.world is None or stage.world.local_rank == 0  # a meter counts its whole machine
    context: AbstractContextManager[object] = meter if counts else nullcontext()
    with context:
        outcome = work(stage)
    if stage.world is None:
        return outcome, meter.reading
    return outcome, sum_of(stage.world.collect(meter.reading if counts else None))


def _log_data(run: Run, folder: Path) -> None:
    """Log which data the stage reads, by a digest of all splits."""
    from lissom.data.prepare import load_card

    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    card = load_card(folder)
    run.log_dataset(card.name, card.source, digest.hexdigest(), context="compression")


def _write(stage: Stage, outcome: Outcome, reading: EnergyReading) -> None:
    if outcome.model is not None:
        from lissom.models.directory import write_model
        from lissom.models.manifest import Step

        step = Step(
            stage=stage.name,
            method=outcome.method,
            params=stage.section(),
            metrics={
                name: value for name, value in flatten(outcome.metrics) if isinstance(value, int | float | str | None)
            },
            cost=reading.model_dump(mode="json"),
            run_id=stage.run.id,
        )
        upstream = [earlier.run_id for earlier in outcome.model.manifest.steps if earlier.run_id]
        outcome.model.manifest = outcome.model.manifest.with_step(step)
        write_model(outcome.model, stage.outputs["model"])
        if upstream:
            stage.run.set_tags({"lissom.upstream_run": upstream[-1]})
    folder = stage.outputs[METRICS_FOLDER]
    write_json(folder / METRICS, outcome.metrics)
    write_json(folder / EMISSIONS, reading.model_dump(mode="json"))
    write_json(folder / HISTORY, outcome.history)
    stage.run.log_metrics({stage.name: outcome.metrics, "cost": reading.model_dump(mode="json")})
    stage.run.log_files(*sorted(folder.iterdir()))
