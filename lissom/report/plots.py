"""The report's plots, as SVG text drawn by matplotlib."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lissom.evaluate.figures import TEACHER_EAGER, VARIANT, Evaluation
from lissom.models.sizes import Anatomy
from lissom.report.ledger import Ledger

# Drawn at 6 inches: on a phone the page shows it at about 60 %, where these sizes are still readable.
_WIDTH = 6.0
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "text.color": "#0f172a",
    "svg.fonttype": "none",
    "svg.hashsalt": "lissom",
}
_TEAL, _INK, _GREY, _AMBER = "#0f766e", "#1e293b", "#94a3b8", "#b45309"
_PARTS = {"embeddings": "#0f766e", "attention": "#38bdf8", "ffn": "#f59e0b", "other": "#94a3b8"}
_LEAST_GAP_POINTS = 0.35


def pareto(ledger: Ledger, eager_ms: float) -> str:
    """Score over latency: the chain of steps, and the baselines that need no training."""
    percent = ledger.metric.form == "percent"
    unit = 100 if percent else 1
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        chain = [(row.milliseconds, row.score * unit, row.step) for row in ledger.rows]
        axes.plot([x for x, _, _ in chain], [y for _, y, _ in chain], "-o", color=_TEAL, linewidth=1.5, zorder=3)
        plain = ledger.plain_int8
        points = [
            *((x, y, name, _TEAL) for x, y, name in chain),
            (eager_ms, ledger.rows[0].score * unit, "teacher, eager torch", _INK),
            (plain.setting.runners[VARIANT].p50, plain.quality.score * unit, "teacher, plain int8", _AMBER),
        ]
        for x, y, _, color in points[len(chain) :]:
            axes.plot([x], [y], "s", color=color, zorder=3)
        _label(axes, points)
        if (strongest := ledger.strongest_floor) is not None:
            floor = strongest.score * unit
            axes.axhline(floor, color=_GREY, linestyle="--", linewidth=1)
            axes.annotate(
                f"floor: {strongest.model}", (1.0, floor), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                color="#64748b",
            )  # fmt: skip
        if not ledger.metric.higher_is_better:
            axes.invert_yaxis()  # so that up is better
        axes.set_xscale("log")
        axes.margins(x=0.18, y=0.15)
        axes.set_xlabel("median latency, ms (batch 1, log scale)")
        axes.set_ylabel(f"test {ledger.metric.name}" + (", %" if percent else ""))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        return _svg(figure)


def latencies(evaluations: Sequence[Evaluation]) -> str:
    """Latency distributions: 10th to 90th percentile and median, one bar for each variant and the eager teacher."""
    with matplotlib.rc_context(_STYLE):
        rows = [("teacher, eager", evaluations[0].headline.runners[TEACHER_EAGER])]
        rows += [(evaluation.variant, evaluation.headline.runners[VARIANT]) for evaluation in evaluations]
        figure = Figure(figsize=(_WIDTH, 0.5 * len(rows) + 0.9), layout="constrained")
        axes = figure.subplots()
        for place, (_, latency) in enumerate(rows):
            low, median, high = latency.deciles[1], latency.p50, latency.deciles[9]
            axes.barh(place, high - low, left=low, height=0.5, color=_GREY if place == 0 else "#5eead4")
            axes.plot([median, median], [place - 0.25, place + 0.25], color=_INK, linewidth=2)
            axes.annotate(f"{median:.2f} ms", (high, place), xytext=(6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.margins(x=0.25)
        axes.set_xlabel("ms for one text (10th to 90th percentile, median; log scale)")
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        return _svg(figure)


def parameters(before: Anatomy, after: Anatomy) -> str:
    """Parameters by part, before and after."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
        axes = figure.subplots()
        for place, anatomy in enumerate((before, after)):
            left = 0.0
            for part, color in _PARTS.items():
                width = getattr(anatomy, part) / 1e6
                label = {"ffn": "FFN", "other": "norms, head"}.get(part, part) if place == 0 else None
                axes.barh(place, width, left=left, height=0.55, color=color, label=label)
                left += width
            axes.annotate(
                f"{anatomy.total / 1e6:.1f} M", (left, place), xytext=(6, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks([0, 1], ["teacher", "final"])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("million parameters")
        figure.legend(loc="outside upper center", ncols=len(_PARTS), frameon=False)
        return _svg(figure)


def _label(axes: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Name the points; names of points close in height go to alternating sides."""
    heights: list[float] = []
    for x, y, name, color in sorted(points, key=lambda point: -point[1]):
        near = sum(abs(y - height) < _LEAST_GAP_POINTS for height in heights)
        offset = (0, 9) if near % 2 == 0 else (0, -16)
        axes.annotate(name, (x, y), xytext=offset, textcoords="offset points", ha="center", fontsize=9.5, color=color)
        heights.append(y)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
