"""Which step lost the score that is missing, and what to change."""

from lissom.artifacts import TEACHER
from lissom.report.ledger import Ledger

_CHANGES = {
    "distill": "keep more blocks (distill.blocks), train longer (distill.training.epochs) or add unlabelled texts "
    "(data.transfer)",
    "prune": "keep more (prune.heads, prune.neurons) or train longer (prune.training.epochs)",
    "factorize": "raise factorize.rank or train longer (factorize.training.epochs)",
    "quantize": "train longer (quantize.training.epochs)",
}


def advice(ledger: Ledger) -> str | None:
    """Return what lost most and what to change about it; None if every loss is within its interval.

    A teacher that is no better than the strongest model without a Transformer comes first: nothing after it can help.
    """
    metric, teacher = ledger.metric, ledger.rows[0]
    floor = ledger.strongest_floor
    if floor is not None and not metric.improves(teacher.score, floor.score):
        return (
            f"the teacher ({metric.name} {metric.show(teacher.score)}) is no better than {floor.model} "
            f"({metric.show(floor.score)}): train it longer (teacher.epochs), take another base model or more data"
        )
    if ledger.headline.drop.low <= 0:
        return None
    losses = {
        row.step: metric.drop(before.score, row.score)
        for before, row in zip(ledger.rows, ledger.rows[1:], strict=False)
        if row.step != TEACHER
    }
    worst = max(losses, key=lambda step: losses[step])
    index = [row.step for row in ledger.rows].index(worst)
    before, after = ledger.rows[index - 1], ledger.rows[index]
    return (
        f"most was lost by {worst}: {metric.name} {metric.show(before.score)} to {metric.show(after.score)}; "
        f"{_CHANGES[worst]}"
    )
