"""Running a stage: `python -m lissom.components.<stage>`, with the same options under DVC and Kubeflow.

The runner reads the params, opens the MLflow run, measures the energy, runs the stage's work in temporary folders, and
moves these to their targets when the work is complete.
"""

import hashlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.artifacts import (
    EMISSIONS,
    EXPORT_RECORD,
    HISTORY,
    METRICS,
    REPORT_PAGE,
    atomic_folder,
    read_json,
    write_json,
    write_text,
)
from lissom.components.arguments import input_folders, parse, read_params
from lissom.components.executor import write_executor_output
from lissom.components.layout import layout_of
from lissom.components.pipeline_run import check_watched, pipeline_run
from lissom.components.preflight import preflight
from lissom.components.specs import METRICS_FOLDER, STAGES, StageSpec, spec_of
from lissom.components.stage import Outcome, Stage
from lissom.components.trainjob import needs_trainjob, run_as_trainjob
from lissom.emissions.meter import EnergyMeter, EnergyReading, detect_processor, sum_of
from lissom.ending import finish_with_message
from lissom.errors import InputError
from lissom.machine import limit_threads
from lissom.parallel.config import ParallelParams
from lissom.parallel.launch import is_worker, launch, load_run, report_error, save_run
from lissom.params import Params
from lissom.report.plot_data import curves
from lissom.storage import remove_folder, scratch_folder
from lissom.tracking.runs import STAGE_TAG, VARIANT_TAG, Run, SilentRun, flatten, open_run
from lissom.training.stopping import Stopped

if TYPE_CHECKING:
    from lissom.parallel.world import World


def run_stage(name: str, words: Sequence[str] | None = None) -> None:
    """Parse the command line and run a stage; an error ends the process with a message and exit code 1.

    For a training stage with several processes, this process launches them and waits.

    Args:
        name: the stage.
        words: its command line; None takes that of this process.
    """
    finish_with_message(name, lambda: _run_command(name, sys.argv[1:] if words is None else list(words)))


def _run_command(name: str, words: list[str]) -> None:
    spec = spec_of(name)
    arguments = parse(spec, words)
    try:
        params = read_params(arguments)
        check_watched(spec, params)
        if spec is STAGES[0]:
            preflight(params)
        layout, options = layout_of(spec, params, arguments) if spec.trains else (ParallelParams(), [])
        if is_worker():
            _run_worker(spec, params, layout, arguments)
        elif needs_trainjob(layout):
            run_as_trainjob(name, layout, arguments, tuple(spec.inputs), (*spec.outputs, METRICS_FOLDER))
        elif layout.spreads:
            launch(f"lissom.components.{name}", [*words, *options], layout)
        else:
            limit_threads()
            _run(spec, params, None, arguments)
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)


def work_of(name: str) -> Callable[[Stage], Outcome]:
    """Return the work of a stage, imported lazily, so that params are checked and processes started without torch."""
    match name:
        case "prepare":
            from lissom.components.prepare.work import prepare as work
        case "teacher":
            from lissom.components.teacher.work import make_teacher as work
        case "distill":
            from lissom.components.distill.work import make_student as work
        case "prune":
            from lissom.components.prune.work import prune as work
        case "factorize":
            from lissom.components.factorize.work import factorize as work
        case "quantize":
            from lissom.components.quantize.work import quantize as work
        case "export":
            from lissom.components.export.work import export as work
        case "evaluate":
            from lissom.components.evaluate.work import evaluate as work
        case "emissions":
            from lissom.components.emissions.work import measure_emissions as work
        case "report":
            from lissom.components.report.work import write_report as work
        case "register":
            from lissom.components.register.work import register_model as work
        case _:
            raise AssertionError(name)
    return work


def _run_worker(spec: StageSpec, params: Params, layout: ParallelParams, arguments: dict[str, Any]) -> None:
    """Run a stage as one of several processes; errors are reported to the launching process."""
    from lissom.parallel.world import join

    try:
        with join(layout) as world:
            _run(spec, params, world, arguments)
    except (InputError, Stopped) as error:
        report_error(str(error))
        sys.exit(1)


def _run(spec: StageSpec, params: Params, world: "World | None", arguments: dict[str, Any]) -> None:
    # Where several processes of a machine work together, the first one's meter counts the machine.
    counts = world is None or world.local_rank == 0
    detection = detect_processor() if counts else None  # beside the import of MLflow
    with _frame(spec, params, world, arguments) as stage:
        if detection is not None:
            detection.join()
        outcome, reading = _run_metered(stage, counts)
        _write(stage, outcome, reading)
    if world is not None and not world.is_main:
        return
    if arguments.get("page_output"):
        page = (arguments["report_output"] / REPORT_PAGE).read_text(encoding="utf-8")
        write_text(arguments["page_output"], page)
    if arguments["executor_input"]:
        costs = reading.model_dump(mode="json", include={"energy_kwh", "co2e_g", "seconds"})
        costs["energy_measured"] = float(reading.method == "measured")
        facts = {"stage": spec.name, "method": outcome.method, "mlflow_run": stage.run.id}
        write_executor_output(arguments["executor_input"], dict(flatten(outcome.metrics)) | costs, facts)
    remove_folder(stage.checkpoint_folder)


@contextmanager
def _frame(spec: StageSpec, params: Params, world: "World | None", arguments: dict[str, Any]) -> Iterator[Stage]:
    variant = arguments["variant"] if spec.per_variant else ""
    title = f"{spec.name}@{variant}" if variant else spec.name
    is_main = world is None or world.is_main
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        if not spec.trains:  # processes of a training share memory by sockets, whose paths must be short
            stack.enter_context(_temporary_files_in(scratch))
        sources = input_folders(spec, arguments, scratch)
        run: Run = SilentRun()
        if is_main:
            tags = {STAGE_TAG: spec.name, VARIANT_TAG: variant}
            parent = pipeline_run(arguments)
            run = stack.enter_context(open_run(title, params.tracking, tags, load_run(), parent))
            if world is not None:
                save_run(run.id)
        folders = {}
        for name in (*spec.outputs, METRICS_FOLDER):
            target = arguments[f"{name}_output"]
            # Other processes write to their scratch folders, which are removed.
            folders[name] = stack.enter_context(atomic_folder(target if is_main else scratch / "outputs" / name))
        checkpoints = arguments["checkpoints"] / title.replace("@", "-")
        seconds = arguments["checkpoint_seconds"]
        yield Stage(spec, params, sources, folders, run, checkpoints, seconds, scratch, variant, world)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let libraries make their temporary files in a folder, so that those of a killed stage are found and removed."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _run_metered(stage: Stage, counts: bool) -> tuple[Outcome, EnergyReading]:
    stage.run.log_params({stage.name: stage.section()})
    if "data" in stage.inputs:
        _log_data(stage.run, stage.inputs["data"])
    work = work_of(stage.name)
    meter = EnergyMeter(stage.params.emissions.country, alone=stage.world is None)
    context: AbstractContextManager[object] = meter if counts else nullcontext()
    with context:
        outcome = work(stage)
    if stage.world is None:
        return outcome, meter.reading
    return outcome, sum_of(stage.world.gather(meter.reading if counts else None))


def _log_data(run: Run, folder: Path) -> None:
    """Log the data set that the stage reads, with a digest of all splits."""
    from lissom.data.prepare import load_card

    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    card = load_card(folder)
    run.log_dataset(card.name, card.source, digest.hexdigest(), context="compression")


def _write(stage: Stage, outcome: Outcome, reading: EnergyReading) -> None:
    cost = reading.model_dump(mode="json") | {"resumed": bool(stage.taken_up)}
    if outcome.model is not None:
        from lissom.models.directory import write_model
        from lissom.models.manifest import Step

        step = Step(
            stage=stage.name, method=outcome.method, params=stage.section(), metrics=outcome.metrics, cost=cost,
            run_id=stage.run.id,
        )  # fmt: skip
        upstream = [earlier.run_id for earlier in outcome.model.manifest.steps if earlier.run_id]
        outcome.model.manifest = outcome.model.manifest.with_step(step)
        write_model(outcome.model, stage.outputs["model"])
        if upstream:
            stage.run.set_tags({"lissom.upstream_run": upstream[-1]})
    if "export" in stage.outputs:  # the export record holds the cost, as the manifest does for models
        record = stage.outputs["export"] / EXPORT_RECORD
        write_json(record, read_json(record) | {"cost": cost})
    folder = stage.outputs[METRICS_FOLDER]
    write_json(folder / METRICS, outcome.metrics)
    write_json(folder / EMISSIONS, cost)
    write_json(folder / HISTORY, curves(outcome.history))
    measured = {"measured": reading.method == "measured"}
    stage.run.log_metrics({stage.name: outcome.metrics, "cost": cost | measured})
    stage.run.log_files(*sorted(folder.iterdir()))
