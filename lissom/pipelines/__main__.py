"""`python -m lissom.pipelines`: write dvc.yaml; compile, submit, schedule and watch the pipeline on Kubeflow.

Kubeflow's packages are imported by the commands that need them: `python -m lissom.pipelines dvc` does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lissom.components.preflight import preflight
from lissom.ending import finish_with_message
from lissom.errors import InputError
from lissom.params import load_params
from lissom.pipelines.images import NAME, Images
from lissom.storage import scratch_folder

if TYPE_CHECKING:
    from lissom.params import Params as Values
    from lissom.pipelines.server import Server

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The pipeline, for DVC and on Kubeflow.")
out = Console(markup=False, emoji=False)

_FILE = typer.Option("--params", help="Params file.")
_SET = typer.Option("--set", metavar="KEY=VALUE", help="Override one param, section.key=value.")
_TRAIN = typer.Option(help="Image of the stages that train, best with its digest: others are not cached.")
_EXPORT = typer.Option(help="Image of all other stages.")
_HOST = typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Address of Kubeflow Pipelines.")
_NAMESPACE = typer.Option(help="Namespace of the runs, where teams share a server.")
_TOKEN = typer.Option(envvar="KF_PIPELINES_TOKEN", help="Bearer token.")
_EXPERIMENT = typer.Option(help="Experiment that lists the runs.")

Params = Annotated[Path, _FILE]
Overrides = Annotated[list[str] | None, _SET]
TrainImage = Annotated[str, _TRAIN]
ExportImage = Annotated[str, _EXPORT]
Host = Annotated[str | None, _HOST]
Namespace = Annotated[str | None, _NAMESPACE]
Token = Annotated[str | None, _TOKEN]
Experiment = Annotated[str, _EXPERIMENT]

_LATEST = Images()


@app.command(name="compile")
def compile_command(
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("compression.yaml"),
    params: Params = Path("params.yaml"),
    override: Overrides = None,
    train_image: TrainImage = _LATEST.train,
    export_image: ExportImage = _LATEST.export,
    manifests: Annotated[bool, typer.Option(help="Write Kubernetes objects (GitOps) in place of IR YAML.")] = False,
    namespace: Namespace = None,
    version: Annotated[str | None, typer.Option(help="Name of the PipelineVersion, a git revision say.")] = None,
) -> None:
    """Write the compiled pipeline."""
    from lissom.pipelines.compiling import compile_pipeline

    images = Images(train_image, export_image)
    values = load_params(params, override or ())
    _mention_caching(values, images)
    compile_pipeline(values, images, output, manifests=manifests, namespace=namespace, version=version)
    out.print(f"{output}: {'Pipeline and PipelineVersion' if manifests else 'IR YAML'} of {NAME}", soft_wrap=True)


@app.command()
def dvc(
    params: Params = Path("params.yaml"),
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("dvc.yaml"),
) -> None:
    """Write dvc.yaml for the params: DVC then watches the data and the base model that they name."""
    from lissom.pipelines.dvc import code_root, write_dvc

    if params.resolve() != (output.parent / "params.yaml").resolve():
        raise InputError(
            f"--params {params}: the stages and DVC read {output.parent / 'params.yaml'}; give the file that name"
        )
    write_dvc(load_params(params), output, code_root())
    out.print(f"{output}: written", soft_wrap=True)


@app.command()
def submit(
    params: Params = Path("params.yaml"),
    override: Overrides = None,
    train_image: TrainImage = _LATEST.train,
    export_image: ExportImage = _LATEST.export,
    host: Host = None,
    namespace: Namespace = None,
    token: Token = None,
    experiment: Experiment = "lissom",
    name: Annotated[str, typer.Option(help="Name of the run.")] = NAME,
    wait: Annotated[bool, typer.Option(help="Wait for its end; fail if it fails.")] = False,
) -> None:
    """Start a run."""
    images = Images(train_image, export_image)
    values = load_params(params, override or ())
    _mention_caching(values, images)
    preflight(values, elsewhere=True)
    server = _server(host, namespace, token)
    with _compiled(values, images) as package:
        run = server.submit(package, experiment, name)
    out.print(f"run {run}", soft_wrap=True)
    if wait:
        _wait(server, run)


@app.command()
def schedule(
    name: Annotated[str, typer.Option(help="Name of the recurring run; an old one of this name is replaced.")],
    cron: Annotated[str | None, typer.Option(help="Six fields, seconds first: '0 0 3 * * 1', Mondays at 3.")] = None,
    every: Annotated[int | None, typer.Option(min=60, help="Seconds between runs.")] = None,
    params: Params = Path("params.yaml"),
    override: Overrides = None,
    train_image: TrainImage = _LATEST.train,
    export_image: ExportImage = _LATEST.export,
    host: Host = None,
    namespace: Namespace = None,
    token: Token = None,
    experiment: Experiment = "lissom",
) -> None:
    """Run again and again."""
    if (cron is None) == (every is None):
        raise InputError("give either --cron or --every")
    if cron is not None and len(cron.split()) != 6:
        raise InputError(
            f"--cron {cron!r}: {len(cron.split())} fields, six are needed: second minute hour day month weekday"
        )
    values = load_params(params, override or ())
    preflight(values, elsewhere=True)
    server = _server(host, namespace, token)
    with _compiled(values, Images(train_image, export_image)) as package:
        run, old_run = server.schedule(package, experiment, name, cron=cron, seconds=every)
    out.print(f"{name}: recurring run {run}" + (f", in place of {old_run} before" if old_run else ""), soft_wrap=True)


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    host: Host = None,
    namespace: Namespace = None,
    token: Token = None,
    wait: Annotated[bool, typer.Option(help="Wait for its end; fail if it fails.")] = False,
) -> None:
    """Show how far a run is."""
    server = _server(host, namespace, token)
    if wait:
        _wait(server, run)
        return
    _show(*server.status(run))


@contextmanager
def _compiled(params: "Values", images: Images) -> Iterator[Path]:
    """Yield the pipeline, compiled into a temporary file."""
    from lissom.pipelines.compiling import compile_pipeline

    with scratch_folder() as folder:
        package = folder / "compression.yaml"
        compile_pipeline(params, images, package)
        yield package


def _server(host: str | None, namespace: str | None, token: str | None) -> "Server":
    from lissom.pipelines.server import Server

    return Server(host, namespace, token)


def _wait(server: "Server", run: str) -> None:
    state, tasks = server.wait(run)
    _show(state, tasks)
    if state != "SUCCEEDED":
        raise InputError(f"run {run}: {state}")


def _show(state: str, tasks: list[tuple[str, str, str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("task", "state", "error"):
        table.add_column(column)
    for row in tasks:
        table.add_row(*map(Text, row))  # an error may hold what looks like markup
    out.print(table)
    out.print(state)


def _mention_caching(params: "Values", images: Images) -> None:
    from lissom.pipelines.compression import changeable

    reasons = []
    if names := [image for image in (images.train, images.export) if "@sha256:" not in image]:
        reasons.append(f"{', '.join(names)}: no digest, so no task's result is cached (name it as IMAGE@sha256:...)")
    if keys := changeable(params):
        reasons.append(f"{', '.join(keys)}: may change behind the same name, so no task's result is cached")
    for reason in reasons:
        Console(stderr=True, markup=False, emoji=False).print(reason, style="dim")


if __name__ == "__main__":
    finish_with_message("pipelines", app)
