"""The report's plots, as SVG text drawn by matplotlib."""

import io
import math
from collections.abc import Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lissom.evaluate.figures import EAGER, VARIANT, Evaluation
from lissom.models.sizes import Anatomy
from lissom.report.labels import place_labels
from lissom.report.ledger import Ledger
from lissom.report.plot_data import Point, marked, points
from lissom.tasks.metric import Metric

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
_PLACES_ON_FLOOR = (0.85, 0.15, 0.7, 0.3, 0.5)
_PARETO_INCHES = (4.8, 3.8)
"""Narrower than the others: its names are read on a phone too."""


def pareto(ledger: Ledger) -> str:
    """Score over latency: the chain of steps, and the baselines that need no training."""
    strongest = ledger.strongest_floor
    floor = None if strongest is None else (strongest.model, strongest.score)
    with matplotlib.rc_context(_STYLE):
        return _svg(pareto_figure(*points(ledger), floor, ledger.metric))


def pareto_figure(
    steps: Sequence[Point], baselines: Sequence[Point], floor: tuple[str, float] | None, metric: Metric
) -> Figure:
    """Return the figure of score over latency.

    Args:
        steps: the chain, in order.
        baselines: further points.
        floor: name and score of the strongest floor, a horizontal line.
        metric: name, form and direction of the score.
    """
    percent = metric.form != "number"
    unit = 100 if percent else 1
    figure = Figure(figsize=_PARETO_INCHES, layout="constrained")
    FigureCanvasAgg(figure)  # to measure texts
    axes = figure.subplots()
    chain = [(milliseconds, score * unit) for _, milliseconds, score in steps]
    axes.plot(*zip(*chain, strict=True), "-o", color=_TEAL, linewidth=1.5, zorder=3)
    labels = [(milliseconds, score * unit, name, _TEAL) for name, milliseconds, score in steps]
    for (name, milliseconds, score), color in zip(baselines, (_INK, _AMBER), strict=True):
        axes.plot([milliseconds], [score * unit], "s", color=color, zorder=3)
        labels.append((milliseconds, score * unit, name, color))
    lines = [chain]
    if floor is not None:
        axes.axhline(floor[1] * unit, color=_GREY, linestyle="--", linewidth=1)
    if not metric.higher_is_better:
        axes.invert_yaxis()  # so that up is better
    axes.set_xscale("log")
    axes.margins(x=0.22, y=0.2)
    axes.set_xlabel("median latency, ms (one text, one thread, log scale)")
    axes.set_ylabel(f"test {metric.name}" + (", %" if percent else ""))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    figure.draw_without_rendering()  # the layout is final before the names are placed
    if floor is not None:
        left, right = axes.get_xlim()
        name, height = floor[0], floor[1] * unit
        lines.append([(left, height), (right, height)])
        pixels = axes.transData.transform([(x, y) for x, y, _, _ in labels])

        def room(place: float) -> float:
            """Return the distance of a place on the line from the nearest point, in pixels."""
            here = axes.transData.transform((place, height))
            return min(math.dist(here, point) for point in pixels)

        emptiest = max((left ** (1 - share) * right**share for share in _PLACES_ON_FLOOR), key=room)
        labels.append((emptiest, height, f"floor: {name}", "#64748b"))
    place_labels(axes, labels, lines)
    return figure


def latencies(evaluations: Sequence[Evaluation]) -> str:
    """Latency distributions: 10th to 90th percentile and median, one bar for each variant and the eager teacher."""
    with matplotlib.rc_context(_STYLE):
        first = evaluations[0].headline
        rows = [(marked("teacher, eager", first.conditions.disturbed), first.runners[EAGER])]
        for evaluation in evaluations:
            setting = evaluation.headline
            rows.append((marked(evaluation.variant, setting.conditions.disturbed), setting.runners[VARIANT]))
        figure = Figure(figsize=(_WIDTH, 0.5 * len(rows) + 0.9), layout="constrained")
        axes = figure.subplots()
        for place, (_, latency) in enumerate(rows):
            median, high = latency.p50, latency.p50
            if latency.deciles:
                low, high = latency.deciles[1], latency.deciles[9]
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


def heads(sites: Sequence[str], scores: Sequence[Sequence[float]], kept: Sequence[Sequence[int]]) -> str:
    """Map of the attention heads: how much each mattered before pruning, and which are left.

    Args:
        sites: names of the attention sites.
        scores: by attention site, every head's share in the scores of its site; no shares where heads were not pruned.
        kept: by attention site, the heads that are left.
    """
    with matplotlib.rc_context(_STYLE):
        rows = [(site, row) for site, row in enumerate(scores) if row]
        widest = max(len(row) for _, row in rows)
        figure = Figure(figsize=(_WIDTH, 0.32 * len(rows) + 1.1), layout="constrained")
        axes = figure.subplots()
        grid = [[*row, *[math.nan] * (widest - len(row))] for _, row in rows]
        lowest = min(min(row) for _, row in rows)
        image = axes.imshow(grid, cmap="BuGn", aspect="auto", vmin=min(0.0, lowest))
        for place, (site, row) in enumerate(rows):
            for head in set(range(len(row))) - set(kept[site]):
                axes.plot([head], [place], "x", color=_AMBER, markersize=7)
        axes.set_yticks(range(len(rows)), [sites[site] for site, _ in rows])
        axes.set_xticks(range(widest))
        axes.set_xlabel("head (crossed out: removed)")
        figure.colorbar(image, ax=axes, label="share")
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
