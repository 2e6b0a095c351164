"""The parallel layout of a stage: from the params, or proposed by the cost model for this machine."""

from typing import Any

from lissom.components.specs import StageSpec
from lissom.conflicts import trainings_of
from lissom.parallel.config import ParallelParams
from lissom.params import Params


def layout_of(spec: StageSpec, params: Params, arguments: dict[str, Any]) -> tuple[ParallelParams, list[str]]:
    """Return the layout of a training stage, and the options that pass an automatic layout to its processes.

    A stage without trainings runs in a single process.

    Raises:
        InputError: `parallel: auto`, and no layout fits this machine.
    """
    trainings = list(trainings_of(getattr(params, spec.own_section)))
    if not trainings:
        return ParallelParams(), []
    if isinstance(params.parallel, ParallelParams):
        return params.parallel, []
    from lissom.console import note
    from lissom.parallel.measuring import automatic

    source = arguments.get("model_input") or params.base
    layout, reason = automatic(source, max(training.batch_size for training in trainings), params.base.max_length)
    note(reason)
    text = layout.model_dump_json(exclude_unset=True)
    return layout, ["--section", "parallel", text] if arguments["section"] else ["--set", f"parallel={text}"]
