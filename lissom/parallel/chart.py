"""Charts of timelines, for the terminal and as SVG. The last stage is on top, as in the papers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lissom.parallel.simulator import Event, Timeline

_COLOURS = {"F": "#38bdf8", "R": "#facc15", "B": "#34d399", "b": "#34d399", "w": "#6ee7b7"}
_NARROWEST = 3


def draw_text(timeline: Timeline) -> str:
    """Return one line per device, one cell per unit of time; idle cells are dots."""
    unit = min(timeline.durations().values())
    cells = math.ceil(timeline.makespan / unit - 0.5)
    width = max(_NARROWEST, len(str(timeline.schedule.microbatches)) + 2)
    lines = []
    for device in reversed(range(len(timeline.schedule.devices))):
        row = ["."] * cells
        for event in (event for event in timeline.events if event.device == device):
            first, last = round(event.start / unit), max(round(event.end / unit), round(event.start / unit) + 1)
            for cell in range(first, min(last, cells)):
                row[cell] = label(event, timeline) if cell == first else event.operation.kind.upper()
        lines.append(f"S{device + 1} " + "".join(cell.ljust(width) for cell in row).rstrip())
    return "\n".join(lines)


def label(event: Event, timeline: Timeline) -> str:
    """Return the label of an event: kind and micro-batch; chunks after the first are marked by primes."""
    operation = event.operation
    if operation.kind == "w":
        return "B"
    kind = "B" if operation.kind == "b" else operation.kind
    return f"{kind}{operation.microbatch}" + "'" * (operation.stage // len(timeline.schedule.devices))


def draw_svg(charts: Mapping[str, Timeline], path: Path) -> None:
    """Write timelines as SVG, one below the other under their titles."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    devices = max(len(timeline.schedule.devices) for timeline in charts.values())
    longest = max(timeline.makespan for timeline in charts.values())
    size = (max(6.0, longest * 0.35), len(charts) * (0.8 + 0.5 * devices))
    figure, rows = plt.subplots(len(charts), figsize=size, sharex=True, squeeze=False)
    for axes, (title, timeline) in zip(rows[:, 0], charts.items(), strict=True):
        _draw(axes, timeline)
        if len(charts) > 1:
            axes.set_title(f"{title}: {timeline.makespan:.4g}, waiting {timeline.bubble:.1%}", fontsize=9, loc="left")
        axes.set_xlim(0, longest)
    rows[-1, 0].set_xlabel("time, in units of the costs")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _draw(axes: Any, timeline: Timeline) -> None:
    devices = len(timeline.schedule.devices)
    for event in timeline.events:
        size, colour = event.end - event.start, _COLOURS[event.operation.kind]
        axes.broken_barh([(event.start, size)], (event.device - 0.4, 0.8), facecolors=colour, edgecolor="white")
        if event.operation.kind != "w":
            axes.text(
                event.start + size / 2, event.device, label(event, timeline), ha="center", va="center", fontsize=7
            )
    axes.set_yticks(range(devices), [f"stage {device + 1}" for device in range(devices)])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
