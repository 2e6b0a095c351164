"""A timeline as a picture: for the terminal, and as SVG. The last stage stands on top, as in the papers."""

import math
from pathlib import Path

from lissom.parallel.simulator import Event, Timeline

_COLOURS = {"F": "#38bdf8", "R": "#facc15", "B": "#34d399", "b": "#34d399", "w": "#6ee7b7"}
_NARROWEST = 3


def draw_text(timeline: Timeline) -> str:
    """Return one line per device, one cell per unit of time; idle cells are dots."""
    unit = min(event.end - event.start for event in timeline.events)
    cells = math.ceil(timeline.makespan / unit - 1e-9)
    width = max(_NARROWEST, len(str(timeline.schedule.microbatches)) + 2)
    lines = []
    for device in reversed(range(len(timeline.schedule.devices))):
        row = ["."] * cells
        for event in (one for one in timeline.events if one.device == device):
            first, last = round(event.start / unit), max(round(event.end / unit), round(event.start / unit) + 1)
            for cell in range(first, min(last, cells)):
                row[cell] = label(event, timeline) if cell == first else event.operation.kind.upper()
        lines.append(f"S{device + 1} " + "".join(cell.ljust(width) for cell in row).rstrip())
    return "\n".join(lines)


def label(event: Event, timeline: Timeline) -> str:
    """Return what a cell says: kind and micro-batch; chunks after the first are marked by primes."""
    made = event.operation
    if made.kind == "w":
        return "B"
    kind = "B" if made.kind == "b" else made.kind
    return f"{kind}{made.microbatch}" + "'" * (made.stage // len(timeline.schedule.devices))


def draw_svg(timeline: Timeline, path: Path) -> None:
    """Write the chart as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    devices = len(timeline.schedule.devices)
    figure, axes = plt.subplots(figsize=(max(6.0, timeline.makespan * 0.35), 0.6 + 0.5 * devices))
    for event in timeline.events:
        size, colour = event.end - event.start, _COLOURS[event.operation.kind]
        axes.broken_barh([(event.start, size)], (event.device - 0.4, 0.8), facecolors=colour, edgecolor="white")
        if event.operation.kind != "w":
            axes.text(
                event.start + size / 2, event.device, label(event, timeline), ha="center", va="center", fontsize=7
            )
    axes.set_yticks(range(devices), [f"stage {device + 1}" for device in range(devices)])
    axes.set_xlim(0, timeline.makespan)
    axes.set_xlabel("time, in units of the costs")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
