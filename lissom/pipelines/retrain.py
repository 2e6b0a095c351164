"""`python -m lissom.pipelines.retrain`: pull data, run, compare with the main branch, gate, push, comment.

For CI workflows, and for use by hand. It only calls tools that can also be used without it: dvc, git, gh.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lissom.artifacts import LEDGER_JSON, read_json, write_json, write_text
from lissom.components.pipeline_run import DVC_FILE, unfitting_sections
from lissom.ending import finish_with_message
from lissom.errors import GateError, InputError
from lissom.overrides import apply_override
from lissom.params import load_params
from lissom.pipelines.comparison import FIGURES, figures_at, metric_and_value, table
from lissom.pipelines.dvc import code_root, write_dvc
from lissom.pipelines.remote_run import Result, run_on_kubeflow
from lissom.report.ledger import Ledger
from lissom.report.tables import markdown
from lissom.tracking.registry import failed_gates

_PARAMS = Path("params.yaml")
_REPORT = Path("artifacts/report")
_KEPT = ("dvc.lock", "metrics", "params.yaml", "dvc.yaml")
"""Files of a run that are committed to git."""

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
out = Console(soft_wrap=True, highlight=False, markup=False)


@app.command()
def retrain(
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a param in params.yaml first.")
    ] = None,
    base: Annotated[str, typer.Option(help="Git revision to compare with.")] = "origin/main",
    max_drop: Annotated[
        float, typer.Option(help="Largest loss of score against it: 0.02 is two points, or 2 % of a perplexity.")
    ] = 0.02,
    remote: Annotated[str | None, typer.Option(help="DVC remote to pull from and push to; default: DVC's.")] = None,
    kubeflow: Annotated[bool, typer.Option(help="Run on Kubeflow (KF_PIPELINES_ENDPOINT) in place of here.")] = False,
    train_image: Annotated[str, typer.Option(help="For Kubeflow: image of the stages that train.")] = "lissom-train",
    export_image: Annotated[str, typer.Option(help="For Kubeflow: image of all others.")] = "lissom-export",
    push: Annotated[bool, typer.Option(help="Push the results to the DVC remote if all gates are passed.")] = True,
    commit: Annotated[bool, typer.Option(help="Then commit results and params; push the branch.")] = False,
    pull_request: Annotated[str | None, typer.Option(help="Pull request to comment on, through gh.")] = None,
    output: Annotated[Path, typer.Option(help="Where the comparison goes, Markdown.")] = Path("retrain.md"),
) -> None:
    """Retrain, compare with the main branch, gate, push, comment."""
    load_params(_PARAMS, override or ())  # reports all mistakes before anything starts
    before = figures_at(base)
    has_remote = _has_remote(remote)
    if has_remote:
        _dvc("pull", "--allow-missing", "--run-cache", *_named(remote))
    _change_params(override or ())
    params = load_params(_PARAMS)
    if override or unfitting_sections(params):
        write_dvc(params, DVC_FILE, code_root())
    result = run_on_kubeflow(params, train_image, export_image) if kubeflow else _run_here()
    failures = failed_gates(result.ledger, params.gates) + _against_base(before, result.figures, base, max_drop)
    text = _report(before, result, base, failures)
    write_text(output, text)
    out.print(text)
    _comment(output, pull_request)
    if failures:
        raise GateError(
            "the gates are not passed; nothing is pushed:\n" + "\n".join(f"  {failure}" for failure in failures)
        )
    if result.error:
        raise InputError(result.error)
    if push and has_remote and not kubeflow:
        _dvc("push", "--run-cache", *_named(remote))
    if commit:
        if kubeflow:
            write_json(FIGURES, result.figures)
        _commit(result.figures)


def _run_here() -> Result:
    """Run `dvc repro`; returns results even if the last stage fails because the gates are not passed."""
    has_failed = _dvc("repro", check=False).returncode != 0
    if has_failed and json.loads(_dvc("status", "--json", "--with-deps", "report", capture=True).stdout):
        raise InputError("dvc repro failed before there was a report; its messages are above")
    ledger = Ledger.model_validate(read_json(_REPORT / LEDGER_JSON))
    error = "dvc repro failed after the report; its messages are above" if has_failed else ""
    return Result(read_json(FIGURES), ledger, markdown(ledger), error)


def _against_base(before: Any, after: Any, base: str, max_drop: float) -> list[str]:
    if before is None:
        return []
    metric, value = metric_and_value(after)
    drop = metric.drop(before.get(metric.name, value), value)
    return [f"{metric.name} is worse than that of {base} by {drop:.4f}, --max-drop is {max_drop}"] * (drop > max_drop)


def _report(before: Any, result: Result, base: str, failures: list[str]) -> str:
    verdict = "**Gates not passed**" if failures else "**The run failed**" if result.error else "**Gates passed**"
    reasons = "".join(f"- {reason}\n" for reason in [*failures, *filter(None, [result.error])])
    remark = "" if before else f"\n{base} holds no figures yet (`{FIGURES.as_posix()}`).\n"
    comparison = table(before, result.figures, base)
    return f"## lissom\n\n{verdict}\n\n{reasons}\n{comparison}{remark}\n<details>\n\n{result.markdown}\n</details>\n"


def _comment(output: Path, pull_request: str | None) -> None:
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(output.read_text(encoding="utf-8"))
    if pull_request is None:
        return
    if shutil.which("gh") is None:
        out.print(f"no gh here: pull request {pull_request} is not commented on; the text is in {output}")
        return
    command = ("gh", "pr", "comment", pull_request, "--body-file", str(output), "--edit-last", "--create-if-none")
    if _call(*command, check=False).returncode != 0:  # a token of a fork's pull request may not write
        out.print(f"pull request {pull_request} is not commented on; the text is in {output}")


def _change_params(overrides: Sequence[str]) -> None:
    """Write the overrides into params.yaml, which DVC reads; comments are preserved."""
    if not overrides:
        return
    from ruamel.yaml import YAML

    yaml = YAML()
    values = yaml.load(_PARAMS.read_text(encoding="utf-8"))
    for override in overrides:
        apply_override(values, override)
    text = StringIO()
    yaml.dump(values, text)
    write_text(_PARAMS, text.getvalue())


def _commit(figures: Any) -> None:
    metric, value = metric_and_value(figures)
    _call("git", "add", "--", *(path for path in _KEPT if Path(path).exists()))
    if subprocess.run(["git", "diff", "--cached", "--quiet"], check=False).returncode == 0:
        out.print("nothing has changed: no commit")
        return
    _call("git", "commit", "--message", f"Retrain: {metric.name} {value:.4f}, {figures['megabytes']:.3g} MB")
    _call("git", "push", "origin", "HEAD")


def _has_remote(remote: str | None) -> bool:
    remotes = _dvc("remote", "list", capture=True).stdout.split()
    if remote is not None and remote not in remotes:
        raise InputError(f"--remote {remote}: DVC knows no such remote; dvc remote add {remote} URL")
    if not remotes:
        out.print("DVC has no remote: nothing is pulled or pushed (dvc remote add --default NAME URL)")
    return bool(remotes)


def _named(remote: str | None) -> list[str]:
    return [] if remote is None else ["--remote", remote]


def _dvc(*arguments: str, check: bool = True, capture: bool = False) -> subprocess.CompletedProcess[str]:
    return _call(sys.executable, "-m", "dvc", *arguments, check=check, capture=capture)


def _call(*command: str, check: bool = True, capture: bool = False) -> subprocess.CompletedProcess[str]:
    process = subprocess.run(command, capture_output=capture, text=True, check=False)
    if check and process.returncode != 0:
        command_text = " ".join(command).removeprefix(f"{sys.executable} -m ")
        if capture:
            print(process.stderr, end="", file=sys.stderr, flush=True)
        raise InputError(f"`{command_text}` failed (exit code {process.returncode}); its messages are above")
    return process


if __name__ == "__main__":
    finish_with_message("retrain", app)
