"""Which layers stay in floats under a budget of latency: those whose rounding changes the answers most."""

import re
from collections.abc import Callable, Sequence

from lissom.data.batches import Batch
from lissom.models.compressed import CompressedModel
from lissom.models.edits import FakeQuantize
from lissom.models.edits.quantizers import kept_layers, quantised_products
from lissom.models.sensitivity import effects
from lissom.training.budget import largest_within
from lissom.training.config import BudgetParams
from lissom.training.lesson import Lesson


def with_float_layers(
    model: CompressedModel,
    lesson: Lesson,
    edit: FakeQuantize,
    latency: float,
    batches: Sequence[Batch],
    prepare: Callable[[CompressedModel, Sequence[Batch]], None],
) -> FakeQuantize:
    """Return an edit that rounds fewer layers, as few as a budget of latency allows.

    Args:
        model: the model in floats; not changed.
        lesson: measures latencies, on its dev texts.
        edit: the edit that rounds all layers that may be rounded.
        latency: the budget, as a share of the latency in floats.
        batches: the examples whose answers tell how much the rounding of a layer matters.
        prepare: sets the ranges of a fake-quantised model, on these examples.

    Raises:
        InputError: the file exceeds the budget even with all layers rounded.
    """
    kept = kept_layers(model.network, edit.keep)
    layers = [path for path in quantised_products(model.network, logits=edit.logits) if path not in kept]
    grid = edit.rounding.weights
    found = effects(model, batches, layers, {"rounded": lambda weight: grid.fake(weight, grid.scales(weight))})
    order = [effect.layer for effect in sorted(found, key=lambda effect: -effect.divergence)]

    def fewer(count: int) -> FakeQuantize:
        patterns = tuple(f"^{re.escape(path)}$" for path in order[:count])
        return edit.model_copy(update={"keep": (*edit.keep, *patterns)})

    budget = BudgetParams(of="latency", keep=latency)
    counts = range(len(layers) + 1)
    return fewer(
        largest_within(
            model,
            lesson,
            counts,
            lambda count: [fewer(count)],
            budget,
            prepare=lambda edited: prepare(edited, batches),
            subject="quantize.latency",
        )
    )
