"""The report's page: one self-contained HTML file that works offline."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from lissom.artifacts import CHANGES, FINAL, TEACHER
from lissom.data.prepare import DataCard
from lissom.evaluate.figures import Evaluation, KernelTime
from lissom.models.manifest import Manifest, Step
from lissom.report import plots, tables
from lissom.report.advice import advice
from lissom.report.ledger import Ledger

_MOST_CHANGES = 20


def render_page(
    ledger: Ledger,
    evaluations: dict[str, Evaluation],
    manifest: Manifest,
    data: DataCard,
    changes: Sequence[Mapping[str, str]],
    sci: str,
) -> str:
    """Return the HTML of the report.

    Args:
        ledger: the figures.
        evaluations: all variants.
        manifest: manifest of the final model.
        data: card of the data set.
        changes: rows of `lissom.evaluate.paired.changed_answers` for the final file.
        sci: the SCI in words.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("lissom.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    teacher, final = evaluations[TEACHER], evaluations[FINAL]
    return template.render(
        ledger=ledger,
        advice=advice(ledger),
        headline=_headline(ledger),
        columns=tables.columns(ledger),
        rows=tables.cells(ledger),
        notes=[*tables.notes(ledger), sci],
        pareto=plots.pareto(ledger),
        latencies=plots.latencies(list(evaluations.values())),
        parameters=plots.parameters(teacher.anatomy, final.anatomy),
        teacher=teacher,
        final=final,
        bottlenecks=_bottlenecks(teacher, final),
        kernels=_kernels(teacher, final),
        settings=final.settings,
        changes=changes[:_MOST_CHANGES],
        change_counts=Counter(row["change"] for row in changes),
        changes_file=CHANGES,
        heads=_heads(manifest),
        method_metrics=_method_metrics(manifest.steps),
        manifest=manifest,
        data=data,
        vocabulary=next(
            (step.metrics["test_tokens"] for step in manifest.steps if "test_tokens" in step.metrics), None
        ),
        export=final.exported,
    )


def _headline(ledger: Ledger) -> list[tuple[str, str, str, float | None]]:
    """Return name, shown figure, label and exact value of each headline figure."""
    kept = ledger.headline.kept
    exact = {
        "score_kept": None if kept is None else kept.value,
        "speedup": ledger.headline.speedups["eager"].value,
        "times_smaller": ledger.headline.times_smaller,
        "payback": ledger.headline.payback.inferences,
    }
    return [(name, *text, exact[name]) for name, text in zip(exact, tables.headline(ledger), strict=True)]


def _bottlenecks(teacher: Evaluation, final: Evaluation) -> list[tuple[str, float, float]]:
    """Return the table of bottlenecks: part, millions of parameters before and after."""
    before, after = teacher.anatomy, final.anatomy
    parts = [("word table and positions", before.embeddings, after.embeddings)]
    blocks = [{block.name: block for block in anatomy.blocks} for anatomy in (before, after)]
    for name in dict.fromkeys([*blocks[0], *blocks[1]]):
        for part in ("attention", "ffn"):
            old, new = (getattr(of[name], part) if name in of else 0 for of in blocks)
            parts.append((f"{name}, {'FFN' if part == 'ffn' else part}", old, new))
    parts += [("norms, pooler, classifier", before.other, after.other), ("all", before.total, after.total)]
    return [(name, old / 1e6, new / 1e6) for name, old, new in parts]


def _kernels(teacher: Evaluation, final: Evaluation) -> list[tuple[str, KernelTime | None, KernelTime | None]]:
    """Return kernel by kernel what it takes of a call of both files, by time in either."""
    before, after = ({kernel.kernel: kernel for kernel in of.kernels} for of in (teacher, final))
    names = sorted(
        before.keys() | after.keys(),
        key=lambda name: -max(of[name].microseconds for of in (before, after) if name in of),
    )
    return [(name, before.get(name), after.get(name)) for name in names]


def _heads(manifest: Manifest) -> str | None:
    """Return the map of the heads that were pruned first; None if none were by scores."""
    metrics = [step.metrics for step in manifest.steps]
    # With several methods in a stage, each has metrics of its own.
    metrics += [values for step in metrics for values in step.values() if isinstance(values, dict)]
    scored = next((values for values in metrics if "head_scores" in values), None)
    return None if scored is None else plots.heads(scored["head_sites"], scored["head_scores"], scored["heads_kept"])


def _method_metrics(steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Return the nested metrics of methods as rows of text: peers, layer maps and so on."""
    tables = [
        (name, values)
        for step in steps
        for name, values in step.metrics.items()
        if isinstance(values, dict) and name != "test_tokens"
    ]
    return [
        (f"{title.replace('_', ' ')}, {name}", _in_words(row)) for title, rows in tables for name, row in rows.items()
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        shown = {name: part for name, part in value.items() if not isinstance(part, list)}
        return ", ".join(f"{name.replace('_', ' ')} {_in_words(part)}" for name, part in shown.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
