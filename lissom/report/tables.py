"""The ledger as text: one list of cells, shown in the terminal, as Markdown and on the page."""

import html
import re

from rich.table import Table

from lissom.interval import Interval
from lissom.report.advice import advice
from lissom.report.ledger import Ledger, Row
from lissom.tasks.metric import Metric

_INT8_NAMES = {
    "plain_int8": "plain dynamic int8 of the teacher, torch's exporter",
    "fused_int8": "plain dynamic int8 of the teacher, with fused attention",
}
_COLUMNS = ("ms", "faster", "MB", "parameters")


def columns(ledger: Ledger) -> tuple[str, ...]:
    """Return the headings of the ledger's table; energy is either measured or by a model of the processor."""
    energy = (f"{unit} ({ledger.energy_method})" for unit in ("Wh", "g CO2e"))
    return ("step", ledger.metric.name, *_COLUMNS, *energy)


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
        f"# {escape(ledger.task)}",
        "",
        *([f"**{escape(lost)}**", ""] if (lost := advice(ledger)) else []),
        " · ".join(f"**{value}** {label}" for value, label in headline(ledger)),
        "",
        "| " + " | ".join(map(escape, columns(ledger))) + " |",
        "| --- |" + " ---: |" * (len(columns(ledger)) - 1),
    ]
    lines += ["| " + " | ".join(row) + " |" for row in cells(ledger)]
    return "\n".join([*lines, "", *(f"- {escape(note)}" for note in notes(ledger)), ""])


def escape(text: str) -> str:
    """Return text from outside as one line of Markdown that shows it literally, without markup, tables or HTML.

    Characters of Markdown get a backslash, those of HTML become entities (CommonMark 0.31, sections 2.4 and 2.5).
    """
    return html.escape(re.sub(r"([\\`*_\[\]#|~])", r"\\\1", " ".join(text.split())), quote=False)


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
    figures, metric = ledger.headline, ledger.metric
    speedups = figures.speedups
    disturbed = _unsure(figures.conditions.disturbed)
    return [
        kept_in_words(figures.kept, metric.name),
        (
            f"{speedups['eager'].value:.1f}x",
            f"faster than the teacher in eager fp32 torch ({between(speedups['eager'], '.1f')}), "
            f"{speedups['onnx'].value:.1f}x than its fp32 ONNX file, {speedups['int8'].value:.1f}x than its strongest "
            f"plain int8 file; one text, one pinned thread{disturbed}",
        ),
        (f"{figures.times_smaller:.1f}x", "smaller file"),
        (
            count(figures.payback.inferences),
            "inferences until compressing has paid back its energy (power: "
            f"{ledger.inference.power['artifact'].method})" + _unsure(ledger.inference.conditions.disturbed),
        ),
    ]


def kept_in_words(kept: Interval | None, metric: str) -> tuple[str, str]:
    """Return the share of the teacher's score that is kept, and a label that says what it means."""
    if kept is None:
        return "-", f"of the teacher's {metric} kept: the teacher's may be 0"
    meaning = ""
    if kept.low > 1:
        meaning = "; above 100 % means that the teacher is undertrained, not that compressing improves models"
    elif kept.value > 1:
        meaning = "; the difference to the teacher is within its interval"
    bounds = f"95 % interval {kept.low:.1%} to {kept.high:.1%}"
    return f"{kept.value:.1%}", f"of the teacher's {metric} kept ({bounds}){meaning}"


def notes(ledger: Ledger) -> list[str]:
    """Return the notes below the ledger: payback, energy, baselines, and what was disturbed."""
    payback, metric, spent = ledger.headline.payback, ledger.metric, ledger.spent
    costs = [f"{kwh * 1000:.3g}" for kwh in (spent.compressing.value, spent.teacher_kwh, spent.measuring_kwh)]
    if spent.compressing.low < spent.compressing.high:  # others' work was counted with it
        costs[0] += f" ({spent.compressing.low * 1000:.3g} to {spent.compressing.high * 1000:.3g})"
    days = payback.days
    at_rate = "" if days is None else f", {days:.2g} days at {payback.requests_per_day:,.0f} requests a day"
    per_thousand, method = ledger.inference, ledger.inference.power["artifact"].method
    lines = [
        f"payback: {count(payback.inferences)} inferences "
        f"(95 % interval {count(payback.low)} to {count(payback.high)}){at_rate}; energy of compressing: "
        f"{ledger.energy_method}, of an inference: {method}",
        f"energy of 1,000 inferences: {per_thousand.teacher.value:.3g} J for the eager teacher "
        f"({between(per_thousand.teacher, '.3g')}), {per_thousand.artifact.value:.3g} J for the final file "
        f"({between(per_thousand.artifact, '.3g')}); {method_in_words(method)}",
        f"energy: {costs[0]} Wh for compressing, {costs[1]} Wh for the teacher's fine-tuning, {costs[2]} Wh for "
        f"measuring; {ledger.energy_method}, {ledger.intensity_g_per_kwh:.0f} g CO2e per kWh ({ledger.country})",
    ]
    lines += [
        f"{_INT8_NAMES[row.name]}: {metric.name} {metric.show(row.score)}, {row.milliseconds:.2f} ms, "
        f"{row.speedup:.1f}x faster than eager, {row.megabytes:.1f} MB" + _unsure(ledger.headline.conditions.disturbed)
        for row in ledger.plain_int8
    ]
    for floor in ledger.floors:
        is_better = metric.improves(ledger.rows[-1].score, floor.score)
        lines.append(
            f"floor, {floor.model}: {metric.name} {metric.show(floor.score)}, {floor.latency.p50:.3g} ms for one text, "
            f"{floor.megabytes:.1f} MB" + ("" if is_better else "; it is as good as the compressed model: use it")
        )
    lines += [f"floor, {name}: could not be made: {reason}" for name, reason in ledger.absent_floors.items()]
    if spent.incomplete:
        lines.append(
            f"energy of {', '.join(spent.incomplete)}: interrupted and resumed; only what was used "
            "since the last start is counted, so that the true energy of compressing and the true payback are higher"
        )
    if spent.with_others:
        lines.append(
            f"energy of {', '.join(spent.with_others)}: several processes, counted as the whole machine with all that "
            "ran on it"
        )
    if ledger.teacher_still_improved:
        lines.append(
            "the teacher's dev score was best after its last epoch: with more (teacher.epochs, teacher.patience) it "
            "may get better, and so may its students"
        )
    lines += [f"the latency of {row.step} was disturbed: {row.disturbed}" for row in ledger.rows if row.disturbed]
    lines += [
        f"the latency of {floor.model} was disturbed: {floor.conditions.disturbed}"
        for floor in ledger.floors
        if floor.conditions.disturbed
    ]
    if (reason := ledger.inference.conditions.disturbed) is not None:
        lines.append(f"the energy of inference and the payback were disturbed: {reason}")
    return lines


def method_in_words(method: str) -> str:
    """Return what stands behind the energy of an inference."""
    if method == "measured":
        return "measured by the processor's counter"
    return "a model: a constant power of the processor and memory times the latency, so that it tells no more than that"


def between(interval: Interval, form: str) -> str:
    """Return the bounds of an interval as text."""
    return f"{interval.low:{form}} to {interval.high:{form}}"


def _unsure(reason: str | None) -> str:
    return "" if reason is None else "; DISTURBED, does not count"


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
    milliseconds = row.milliseconds.value
    return (
        row.step + (method or " (none)"),
        score,
        with_change(f"{milliseconds:.2f}", milliseconds, None if before is None else before.milliseconds.value, "+.2f"),
        f"{row.speedup.value:.1f}x" + ("" if row.disturbed is None else " (disturbed)"),
        with_change(f"{row.megabytes:.1f}", row.megabytes, None if before is None else before.megabytes, "+.1f"),
        f"{row.parameters / 1e6:.1f} M",
        f"{row.energy_kwh * 1000:.2f}",
        f"{row.co2e_g:.2f}",
    )
