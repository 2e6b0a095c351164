"""The figure of structured pruning: accuracy over measured latency, every method at every size, for a latency budget."""

import io
from statistics import mean

import matplotlib
from matplotlib.figure import Figure

from benchmarks.results import Rows

_SERIES = {
    "first order": ("first order, 50 %", "first order, 25 %", "first order, half of the latency"),
    "first order in rounds": ("first order in rounds, 50 %",),
    "gates": ("gates, 50 %", "gates, 25 %", "gates, 12 %"),
    "gates and layers": ("gates and layers, 25 %", "gates and layers, 12 %"),
    "blocks": ("blocks, 50 %", "blocks, 33 %"),
    "LayerDrop": ("LayerDrop, 50 %",),
    "hidden channels": ("hidden channels, 67 %", "hidden channels, 50 %"),
    "the model as it is": ("dense",),
}
_COLOURS = ("#1d4ed8", "#60a5fa", "#059669", "#34d399", "#f59e0b", "#b45309", "#9333ea", "#94a3b8")


def figure(rows: Rows, data: str = "trec6") -> str:
    """Return the accuracy on a data set over the latency as a share of the whole model's, as SVG; means over seeds."""
    with matplotlib.rc_context({"svg.hashsalt": "lissom", "svg.fonttype": "none", "font.size": 9}):
        drawing = Figure(figsize=(7, 4.2), layout="constrained")
        axes, old, machines, seeds = drawing.subplots(), False, frozenset[str](), set[int]()
        for (label, methods), colour in zip(_SERIES.items(), _COLOURS, strict=True):
            points = []
            for method in methods:
                score = rows.take("accuracy_percent", data=data, method=method)
                speed = rows.take("speedup", data=data, method=method).values or dict.fromkeys(score.values, 1.0)
                if score.values:
                    points.append((1 / mean(speed.values()), mean(score.values.values())))
                    old, machines = old or score.old, machines | score.machines
                    seeds.add(len(score.values))
            if not points:
                continue
            points.sort()
            axes.plot(
                [x for x, _ in points], [y for _, y in points], "o", color=colour, label=label, markersize=5,
                linestyle=":" if len(points) > 1 else "none", linewidth=0.8,
            )  # fmt: skip
        axes.margins(x=0.08, y=0.1)
        counts = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else f"{min(seeds, default=0)} seed"
        age = " (measured on an earlier version)" if old else ""
        axes.set_title(f"TREC-6, MiniLM-L6, {counts}, {'; '.join(sorted(machines))}{age}", fontsize=7)
        axes.set_xlabel("latency of one text on one core, share of the whole model's (ONNX, floats)")
        axes.set_ylabel("test accuracy, %")
        axes.legend(fontsize=7, loc="lower right")
        buffer = io.StringIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
