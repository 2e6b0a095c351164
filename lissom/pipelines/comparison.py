"""Comparison of a retraining's results with those of the main branch, as Markdown."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lissom.errors import InputError
from lissom.tasks.metric import Metric

FIGURES = Path("metrics/report/metrics.json")
"""Metrics of the final artefact, tracked by git."""

_ROWS = (
    ("milliseconds", "ms per inference, one thread"),
    ("megabytes", "MB"),
    ("speedup_eager", "times faster than the eager teacher"),
    ("speedup_int8", "times faster than the teacher's plain int8"),
)
_ENERGY = (
    ("joules_per_1000_inferences", "J per 1,000 inferences"),
    ("compressing_wh", "Wh to compress"),
    ("compressing_co2e_g", "g CO2e to compress"),
)


def figures_at(revision: str, folder: Path = Path()) -> dict[str, Any] | None:
    """Return the metrics in a git revision; None if it has none.

    Raises:
        InputError: there is no such revision.
    """
    if _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").returncode != 0:
        raise InputError(
            f"--base {revision}: git knows no such revision here; fetch it first (in CI: a checkout with its history)"
        )
    result = _git(folder, "show", f"{revision}:./{FIGURES.as_posix()}")
    return json.loads(result.stdout) if result.returncode == 0 else None


def metric_and_value(figures: Mapping[str, Any]) -> tuple[Metric, float]:
    """Return the task's metric and its value."""
    metric = Metric.model_validate(figures["metric"])
    return metric, float(figures[metric.name])


def table(before: Mapping[str, Any] | None, after: Mapping[str, Any], base: str) -> str:
    """Return the comparison as a Markdown table: a row per metric, with the change in percent or points."""
    metric, value = metric_and_value(after)
    lines = [f"| | {base} | now | change |", "| --- | ---: | ---: | ---: |"]
    old_score = None if before is None or metric.name not in before else float(before[metric.name])
    change = (
        ""
        if old_score is None
        else metric.show_change(old_score, value) + (" points" if metric.form == "percent" else "")
    )
    lines.append(_row(metric.name, old_score, value, change, "{:.4f}"))
    methods = [figures.get("energy_method") for figures in (before, after) if figures]
    how = "".join(f" ({method})" for method in [", then ".join(dict.fromkeys(filter(None, methods)))] if method)
    labels = [*_ROWS, *((key, label + how) for key, label in _ENERGY)]
    for key, label in labels:
        old, new = (None if figures is None else figures.get(key) for figures in (before, after))
        change = f"{(new / old - 1) * 100:+.1f} %" if old and new is not None else ""
        lines.append(_row(label, old, new, change, "{:.4g}"))
    marked = [name for name, figures in ((base, before), ("now", after)) if figures and figures.get("disturbed")]
    if marked:
        lines += ["", f"Other load disturbed the measuring of time or energy ({', '.join(marked)}): they do not count."]
    return "\n".join(lines) + "\n"


def _row(label: str, old: float | None, new: float | None, change: str, form: str) -> str:
    cells = ["-" if value is None else form.format(value) for value in (old, new)]
    return f"| {label} | {cells[0]} | {cells[1]} | {change} |"


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
