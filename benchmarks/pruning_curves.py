"""The figure of what can go: weights by criterion, heads by order, and a lottery ticket beside its controls."""

import io
from collections.abc import Mapping
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.claims import PerSeed
from benchmarks.pruning import FROM_BASE, RANDOM_MASK, RANDOM_WEIGHTS, TICKET
from benchmarks.results import Rows
from benchmarks.sparsity_curves import CURVES
from benchmarks.structures import ORDERS, PERCENT

_TICKETS = {"dense": FROM_BASE, "ticket": TICKET, "random\nweights": RANDOM_WEIGHTS, "random\nmask": RANDOM_MASK}
_COLOURS = ("#1d4ed8", "#60a5fa", "#059669", "#f59e0b", "#9333ea", "#94a3b8")
_Curve = dict[int, PerSeed]


def figure(rows: Rows, data: str = "trec6") -> str:
    """Return three panels of the accuracy on a data set as SVG; means over seeds, and of tickets every seed."""
    with matplotlib.rc_context({"svg.hashsalt": "lissom", "svg.fonttype": "none", "font.size": 8}):
        drawing = Figure(figsize=(10, 3.4), layout="constrained")
        weights, heads, tickets = drawing.subplots(1, 3)
        found = _draw_curves(weights, {name: _curve(rows, data, name) for name in CURVES}, "weights removed, %")
        found += _draw_curves(heads, {name: _curve(rows, data, name) for name in ORDERS}, "heads removed, %")
        found += _draw_tickets(tickets, rows, data)
        weights.set_ylabel("test accuracy, %")
        machines = frozenset[str]().union(*(each.machines for each in found))
        counts = sorted({len(each.values) for each in found if each.values}) or [0]
        seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s'[: counts[0] != 1]}"
        age = " (measured on an earlier version)" if any(each.old for each in found) else ""
        drawing.suptitle(f"TREC-6, MiniLM-L6, {seeds}, {'; '.join(sorted(machines))}{age}", fontsize=7)
        buffer = io.StringIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _curve(rows: Rows, data: str, method: str) -> _Curve:
    return {percent: rows.take(f"accuracy_percent_{percent}", data=data, method=method) for percent in PERCENT}


def _draw_curves(axes: Axes, curves: Mapping[str, _Curve], label: str) -> list[PerSeed]:
    drawn = []
    for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False):
        points = {percent: mean(of.values.values()) for percent, of in curve.items() if of.values}
        if points:
            axes.plot(list(points), list(points.values()), "o-", color=colour, markersize=3, linewidth=1, label=name)
            drawn += [of for of in curve.values() if of.values]
    axes.set_title("without a training")
    axes.set_xlabel(label)
    if drawn:
        axes.legend(fontsize=6, loc="lower left")
    else:
        _say_missing(axes)
    return drawn


def _draw_tickets(axes: Axes, rows: Rows, data: str) -> list[PerSeed]:
    drawn = []
    for place, method in enumerate(_TICKETS.values()):
        score = rows.take("accuracy_percent", data=data, method=method)
        if score.values:
            axes.plot([place] * len(score.values), list(score.values.values()), "o", color=_COLOURS[0], markersize=3)
            axes.plot([place - 0.25, place + 0.25], [mean(score.values.values())] * 2, color=_COLOURS[0], linewidth=1)
            drawn.append(score)
    axes.set_xticks(range(len(_TICKETS)), list(_TICKETS), fontsize=7)
    axes.set_xlim(-0.5, len(_TICKETS) - 0.5)
    axes.set_title("50 % of the weights, after equal updates")
    if not drawn:
        _say_missing(axes)
    return drawn


def _say_missing(axes: Axes) -> None:
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
