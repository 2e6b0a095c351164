"""How long a pipeline waits: every schedule run with stages that take a given time."""

from typing import Any

from lissom.parallel.rehearsal import rehearse
from lissom.parallel.schedules import make_schedule
from lissom.parallel.simulator import Costs, simulate

SCHEDULES = (
    ("gpipe", 4, 8), ("1f1b", 2, 4), ("1f1b", 4, 8), ("interleaved_1f1b", 4, 8), ("varuna", 4, 5), ("varuna_eager", 4, 5),
)  # fmt: skip
UNIT_SECONDS = 0.15


def bubbles() -> list[dict[str, Any]]:
    """Every schedule run, against the simulator and the formula."""
    rows = []
    for name, devices, microbatches in SCHEDULES:
        result = make_schedule(name, devices, microbatches)
        simulated = simulate(result, Costs())
        measured = rehearse(result, simulated.costs, UNIT_SECONDS)
        plain = name in ("gpipe", "1f1b")
        rows.append({
            "part": "bubble", "layout": f"{name}, p {devices}, m {microbatches}",
            "makespan_simulated": simulated.makespan, "makespan_measured": measured.makespan,
            "bubble_simulated": simulated.bubble, "bubble_measured": measured.bubble,
            "bubble_formula": (devices - 1) / (microbatches + devices - 1) if plain else None,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows
