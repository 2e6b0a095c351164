"""The few figures that `dvc metrics show` and `dvc exp show` tell, in units in which five decimal places are enough."""

from lissom.emissions.sci import SciStatement
from lissom.report.ledger import Ledger

_DIGITS = 5


def summary(ledger: Ledger, sci: SciStatement) -> dict[str, float | None]:
    """Return the main figures by name, rounded to five significant digits; DVC shows them in the names' order.

    `disturbed` is 1 if other load disturbed the measuring of time or power, and `energy_measured` is 0 if a part of the
    energy, on which the SCI and the payback depend, is by a model.
    """
    final, teacher, headline = ledger.rows[-1], ledger.rows[0], ledger.headline
    figures = {
        ledger.metric.name: final.score,
        f"{ledger.metric.name}_of_teacher": teacher.score,
        "disturbed": float((headline.conditions.disturbed or ledger.inference.conditions.disturbed) is not None),
        "compressing_wh": ledger.spent.compressing.value * 1000,
        "energy_measured": float(ledger.is_measured),
        "joules_per_1000_inferences": ledger.inference.artifact.value,
        "megabytes": final.megabytes,
        "milliseconds": final.milliseconds.value,
        "payback_inferences": headline.payback.inferences,
        "sci_ug_co2e_per_inference": sci.artifact.sci_g.value * 1e6,
        "times_faster_than_eager": headline.speedups["eager"].value,
        "times_faster_than_int8": headline.speedups["int8"].value,
        "times_smaller": headline.times_smaller,
    }
    return {name: None if value is None else float(f"{value:.{_DIGITS}g}") for name, value in figures.items()}
