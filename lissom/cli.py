"""The command line: `lissom compress`, `init`, `predict`, `serve`, `compare`, `report` and others."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lissom import __version__, cli_language, cli_models
from lissom.ending import finish_with_message
from lissom.errors import InputError
from lissom.machine import limit_threads

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Small, fast, low-carbon Transformers.")
params_app = typer.Typer(no_args_is_help=True, help="The params of the pipeline.")
app.add_typer(params_app, name="params")
for command in (cli_language.generate, cli_language.chat, cli_language.harness, *cli_models.COMMANDS):
    app.command()(command)

out = Console(markup=False, emoji=False, highlight=False)
"""Texts from outside are printed as they are: brackets and colons are no markup."""
_LEAST = 1e-9
"""The least time of a pass that can be drawn."""


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is shown as its code
    limit_threads()
    finish_with_message("lissom", app)


def _version(value: bool) -> None:
    if value:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def compress(
    source: Annotated[
        str,
        typer.Argument(metavar="[PARAMS | MODEL]", help="A params file; or a model: folder, hub name, package."),
    ] = "params.yaml",
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="With a model: a folder with train and test, or hub:NAME.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one param.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Run all stages, also those that are up to date.")] = False,
) -> None:
    """Run the whole pipeline in this folder; with MODEL and DATA, write params.yaml for them first."""
    from lissom.pipelines.compress import compress as run_pipeline

    path = Path(source)
    if data is not None:
        from lissom.pipelines.assumptions import write_params

        path = Path("params.yaml")
        for line in write_params(path, source, data, override or ()):
            out.print(line, soft_wrap=True)
        override = None
    elif path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{source}: a params file ends in .yaml; for a model, name its data too: compress MODEL DATA")
    run_pipeline(path, override or (), force=force)
    report()


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="An empty folder, best a git repository.")] = Path()) -> None:
    """Write a new project: params.yaml, dvc.yaml, .gitignore, the workflow that retrains, and a README."""
    from lissom.pipelines.init import init as write_project

    for name in write_project(folder):
        out.print(str(folder / name), soft_wrap=True)
    out.print(
        "next: git init (if this is no repository), edit params.yaml, lissom compress or dvc repro", soft_wrap=True
    )


@app.command()
def predict(
    texts: Annotated[list[str], typer.Argument(help="Texts to classify; '-' reads one per line from standard input.")],
    pair: Annotated[
        list[str] | None, typer.Option(help="Second text, once for every text, for tasks on pairs.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Exported folder, model directory or models:/NAME@ALIAS; default: the champion of the registry."
        ),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(help="Models with exits: leave at an uncertainty up to this, -1 (never) to 1 (at once)."),
    ] = None,
) -> None:
    """Classify texts, predict their numbers, find spans in them, or continue them."""
    from lissom.tracking.answering import answer

    if texts == ["-"]:
        texts = [line.rstrip("\n") for line in sys.stdin]
    source, answers = answer(texts, pair, model, speed)
    table = Table(box=None, pad_edge=False)
    is_cut = any(result.get("truncated") for result in answers)
    rows = [_shown(result if is_cut else {**result, "truncated": None}) for result in answers]
    for name in (*(rows[0] if rows else ()), "text"):
        table.add_column(
            name, overflow="fold", no_wrap=name not in ("label", "spans", "continuation", "translation", "text")
        )
    for text, row in zip(texts, rows, strict=True):
        table.add_row(*row.values(), text)
    out.print(table)
    Console(stderr=True, markup=False, emoji=False, highlight=False).print(source, style="dim")


def _shown(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return an answer as cells by column."""
    cells = {name: value for name, value in answer.items() if name != "probabilities" and value is not None}
    if "probabilities" in answer:
        cells["probability"] = answer["probabilities"][answer["label"]]
    if "spans" in cells:
        shown = (f"{span['text']} ({span['label']} {span['score']:.2f})" for span in cells["spans"])
        cells["spans"] = ", ".join(shown) or "none"
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in cells.items()}


@app.command()
def serve(
    model: Annotated[
        str | None,
        typer.Option(
            envvar="LISSOM_MODEL", help="Exported folder or models:/NAME@ALIAS; default: the champion of the registry."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads of one answer. Default: 1, as requests are answered side by side; of a GGUF file all cores.",
        ),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Answers at the same time; default: as many as cores divided by threads.")
    ] = None,
    queue: Annotated[
        int | None, typer.Option(min=0, help="Requests that wait for an answer; further ones get 503. Default: 64.")
    ] = None,
) -> None:
    """Answer over HTTP: POST /predict {"texts": [...]}, GET /health, GET /model.

    A GGUF file, or a folder for Ollama, is served by llama.cpp, as OpenAI's: /v1/chat/completions, /v1/completions.
    """
    if model is not None:
        from lissom.gguf.running import is_gguf_model

        if is_gguf_model(model):
            if parallel is not None or queue is not None:
                raise InputError(
                    f"{model} is served by llama.cpp, which answers one request after the other and lets all others "
                    "wait: leave out --parallel and --queue"
                )
            cli_language.serve(model, threads, host, port)
            return
    from lissom.serving.classifier import OnnxClassifier
    from lissom.serving.cores import usable_cores
    from lissom.serving.http import Limits
    from lissom.serving.http import serve as run_server
    from lissom.tracking.fetching import exported_folder

    name, folder = exported_folder(model)
    threads = threads or 1
    running = parallel or max(1, usable_cores() // threads)
    limits = Limits(running=running, waiting=64 if queue is None else queue)
    run_server(OnnxClassifier(folder, threads, spin=False), name, host, port, limits)


@app.command()
def schedule(
    stages: Annotated[int, typer.Option(help="Devices, each with one stage of the model.")] = 4,
    microbatches: Annotated[int, typer.Option(help="Micro-batches of one step.")] = 8,
    name: Annotated[
        str, typer.Option("--schedule", help="gpipe, 1f1b, interleaved_1f1b, varuna or varuna_eager.")
    ] = "1f1b",
    chunks: Annotated[int, typer.Option(help="Pieces of the model on every device (interleaved_1f1b).")] = 2,
    recompute: Annotated[bool, typer.Option(help="Recompute activations (gpipe; varuna always does).")] = False,
    forward: Annotated[float, typer.Option(min=_LEAST, help="Time of a forward pass of one stage.")] = 1.0,
    backward: Annotated[float, typer.Option(min=_LEAST, help="Time of a backward pass of one stage.")] = 2.0,
    svg: Annotated[Path | None, typer.Option(help="Write the chart here as well.")] = None,
    measure: Annotated[
        float | None,
        typer.Option(
            min=1e-4,
            help="Run it too, in processes of this machine whose stages take so many seconds for a unit of time.",
        ),
    ] = None,
) -> None:
    """Draw a pipeline schedule, and say how long it takes, how much it waits and what it holds in memory."""
    from lissom.parallel.chart import draw_svg, draw_text
    from lissom.parallel.schedules import make_schedule
    from lissom.parallel.simulator import Costs, simulate

    if svg is not None and not svg.absolute().parent.is_dir():
        raise InputError(f"--svg {svg}: there is no folder {svg.absolute().parent}; make it first")
    plan = make_schedule(name, stages, microbatches, chunks=chunks, recompute=recompute)
    timeline = simulate(plan, Costs(forward, backward, forward))
    charts = {"simulated": timeline}
    if measure is not None:
        from lissom.parallel.rehearsal import rehearse

        charts["measured"] = rehearse(plan, timeline.costs, measure)
    for title, chart in charts.items():
        if len(charts) > 1:
            out.print(Text.assemble((title, "bold"), f": makespan {chart.makespan:.4g}, bubble {chart.bubble:.1%}"))
        print(draw_text(chart))
    out.print(f"makespan {timeline.makespan:g}, bubble {timeline.bubble:.1%} of all devices' time")
    out.print(f"micro-batches in flight, stage 1 to {stages}: {', '.join(map(str, timeline.peak_in_flight()))}")
    out.print(f"full sets of activations held at once: {', '.join(map(str, timeline.peak_activations()))}")
    if svg is not None:
        draw_svg(charts, svg)
        out.print(f"chart: {svg}")


@app.command()
def report(
    folder: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("artifacts/report"),
    browse: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show the ledger in the terminal, and where the page is."""
    from lissom.artifacts import LEDGER_JSON, REPORT_PAGE, read_json
    from lissom.report.advice import advice
    from lissom.report.ledger import Ledger
    from lissom.report.tables import headline, notes, terminal

    if not (folder / LEDGER_JSON).is_file():
        raise InputError(f"{folder}: there is no report; run `lissom compress` or `dvc repro` first")
    ledger = Ledger.model_validate(read_json(folder / LEDGER_JSON))
    if (lost := advice(ledger)) is not None:
        out.print(lost, style="bold", soft_wrap=True)
    out.print(terminal(ledger))
    for value, label in headline(ledger):
        out.print(Text.assemble((value, "bold"), f" {label}"))
    for note in notes(ledger):
        out.print(f"- {note}", style="dim", soft_wrap=True)
    page = (folder / REPORT_PAGE).resolve()
    out.print(f"page: {page}", soft_wrap=True)
    if browse:
        typer.launch(page.as_uri())


@app.command()
def families() -> None:
    """Print which techniques work with which families of models, as Markdown (docs/families.md)."""
    from lissom.models.capabilities import families_page

    print(families_page())


@params_app.command()
def explain() -> None:
    """Print the reference of all params as Markdown (docs/params.md)."""
    from lissom.reference import params_reference

    print(params_reference())


@params_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Params file.")] = Path("params.yaml"),
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one param.")
    ] = None,
) -> None:
    """Check a params file; all mistakes of keys are listed at once, or all sections that do not fit each other."""
    from lissom.params import load_params

    params = load_params(file, override or ())
    methods: dict[str, str] = {"distill": params.distill.method}
    for name in ("prune", "factorize", "quantize"):
        methods[name] = "+".join(method.method for method in getattr(params, name)) or "none"
    out.print(f"{file}: fine ({', '.join(f'{stage}: {method}' for stage, method in methods.items())})", soft_wrap=True)
