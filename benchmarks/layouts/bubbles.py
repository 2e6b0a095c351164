"""How long a pipeline waits: every schedule run with stages that take a given time."""

from collections.abc import Iterator
from typing import Any

from lissom.parallel.rehearsal import rehearse
from lissom.parallel.schedules import make_schedule
from lissom.parallel.simulator import Costs, simulate

SCHEDULES = (
    ("gpipe", 4, 8), ("1f1b", 2, 4), ("1f1b", 4, 8), ("interleaved_1f1b", 4, 8), ("varuna", 4, 5), ("varuna_eager", 4, 5),
)  # fmt: skip
UNIT_SECONDS = 0.15


def label(name: str, devices: int, microbatches: int) -> str:
    """Return the name of a row."""
    return f"{name}, p {devices}, m {microbatches}"


def bubbles(unit_seconds: float = UNIT_SECONDS) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schedule run, beside the simulator and the formula, which know nothing of the run."""
    for name, devices, microbatches in SCHEDULES:
        schedule = make_schedule(name, devices, microbatches)
        simulated = simulate(schedule, Costs())
        measured = rehearse(schedule, simulated.costs, unit_seconds)
        plain = name in ("gpipe", "1f1b")
        yield label(name, devices, microbatches), {
            "makespan_simulated": simulated.makespan, "makespan_measured": measured.makespan,
            "bubble_simulated": simulated.bubble, "bubble_measured": measured.bubble,
            "bubble_formula": (devices - 1) / (microbatches + devices - 1) if plain else None,
        }  # fmt: skip
