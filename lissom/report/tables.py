"""The ledger as text: one list of cells, shown in the terminal, as Markdown and on the page."""

from rich.table import Table

from lissom.report.ledger import Ledger, Row
from lissom.tasks.metric import Metric

_COLUMNS = ("ms", "faster", "MB", "parameters", "Wh", "g CO2e")


def columns(ledger: Ledger) -> tuple[str, ...]:
    """Return the headings of the ledger's table."""
    return ("step", ledger.metric.name, *_COLUMNS)


def cells(ledger: Ledger) -> list[tuple[str, ...]]:
    """Return the ledger's rows, each figure with the change that the step made."""
    result, before = [], None
    for row in ledger.rows:
        result.append(_cells(ledger.metric, row, before))
        before = row
    return result


def markdown(ledger: Ledger) -> str:
    """Return headline and ledger as Markdown."""
    lines = [
        f"# {ledger.task}",
        "",
        " · ".join(f"**{value}** {label}" for value, label in headline(ledger)),
        "",
        "| " + " | ".join(columns(ledger)) + " |",
        "| --- |" + " ---: |" * (len(columns(ledger)) - 1),
    ]
    lines += ["| " + " | ".join(row) + " |" for row in cells(ledger)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(ledger)), ""])


def terminal(ledger: Ledger) -> Table:
    """Return the ledger as a table for the terminal."""
    table = Table(title=f"{ledger.task}: what each step gained and cost", title_justify="left")
    for name in columns(ledger):
        table.add_column(name, justify="left" if name == "step" else "right")
    for row in cells(ledger):
        table.add_row(*row)
    return table


def headline(ledger: Ledger) -> list[tuple[str, str]]:
    """Return the headline as pairs of figure and label."""
    figures = ledger.headline
    payback = figures.payback
    return [
        (f"{figures.score_kept:.1%}", f"of the teacher's {ledger.metric.name} kept"),
        (f"{figures.speedup:.1f}x", "faster than the eager fp32 teacher, batch 1"),
        (f"{figures.times_smaller:.1f}x", "smaller file"),
        (count(payback.inferences), "inferences until compressing has paid back its energy"),
    ]


def notes(ledger: Ledger) -> list[str]:
    """Return the notes below the ledger: payback, energy and baselines."""
    payback, plain, metric = ledger.headline.payback, ledger.plain_int8, ledger.metric
    costs = [f"{kwh * 1000:.3g}" for kwh in (ledger.compressing_kwh, ledger.teacher_kwh, ledger.measuring_kwh)]
    days = payback.days
    at_rate = "" if days is None else f", {days:.2g} days at {payback.requests_per_day:,.0f} requests a day"
    lines = [
        f"payback: {count(payback.inferences)} inferences "
        f"(95 % interval {count(payback.low)} to {count(payback.high)}){at_rate}",
        f"energy: {costs[0]} Wh for compressing, {costs[1]} Wh for the teacher's fine-tuning, {costs[2]} Wh for "
        f"measuring; {ledger.energy_method}, {ledger.intensity_g_per_kwh:.0f} g CO2e per kWh ({ledger.country})",
        f"plain dynamic int8 of the teacher: {metric.name} {metric.show(plain.quality.score)}, "
        f"{plain.setting.speedup_eager:.1f}x faster, {plain.megabytes:.1f} MB",
    ]
    for floor in ledger.floors:
        is_better = metric.improves(ledger.rows[-1].score, floor.score)
        lines.append(
            f"floor, {floor.model}: {metric.name} {metric.show(floor.score)}, {floor.latency.p50:.3g} ms for one text, "
            f"{floor.megabytes:.1f} MB" + ("" if is_better else "; it is as good as the compressed model: use it")
        )
    lines += [f"floor, {name}: could not be made: {reason}" for name, reason in ledger.absent_floors.items()]
    return lines


def count(value: float | None) -> str:
    """Return a large number as text, such as `1.2 million`; `never` for None."""
    if value is None:
        return "never"
    for unit, name in ((1e9, " billion"), (1e6, " million"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.1f}{name}"
    return f"{value:.0f}"


def _cells(metric: Metric, row: Row, before: Row | None) -> tuple[str, ...]:
    def with_change(value: str, now: float, then: float | None, form: str) -> str:
        return value if then is None or now == then else f"{value} ({format(now - then, form)})"

    score = metric.show(row.score)
    if before is not None and before.score != row.score:
        score += f" ({metric.show_change(before.score, row.score)})"
    method = "" if row.method == "none" else f" ({row.method})"
    return (
        row.step + (method or " (none)"),
        score,
        with_change(
            f"{row.milliseconds:.2f}", row.milliseconds, None if before is None else before.milliseconds, "+.2f"
        ),
        f"{row.speedup:.1f}x",
        with_change(f"{row.megabytes:.1f}", row.megabytes, None if before is None else before.megabytes, "+.1f"),
        f"{row.parameters / 1e6:.1f} M",
        f"{row.energy_kwh * 1000:.2f}",
        f"{row.co2e_g:.2f}",
    )
