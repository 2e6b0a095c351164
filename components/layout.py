"""How a stage's training is spread: what the params say, or what the cost model proposes for this machine."""

from typing import Any

from lissom.parallel.config import ParallelParams
from lissom.params import Params
from lissom.training.config import TrainingParams


def layout_of(name: str, params: Params, arguments: dict[str, Any]) -> tuple[ParallelParams, list[str]]:
    """Return the layout of a training stage, and the options that tell its processes, where it was for us to choose.

    With `method: none` there is nothing to train, and one process passes the model on.

    Raises:
        InputError: `parallel: auto`, and no layout fits this machine.
    """
    section = getattr(params, name)
    if getattr(section, "method", "") == "none":
        return ParallelParams(), []
    if isinstance(params.parallel, ParallelParams):
        return params.parallel, []
    from lissom.console import note
    from lissom.parallel.measuring import automatic

    training = section if isinstance(section, TrainingParams) else section.training
    source = arguments.get("model_input") or params.base
    chosen, reason = automatic(source, training.batch_size, params.base.max_length)
    note(reason)
    text = chosen.model_dump_json(exclude_unset=True)
    return chosen, ["--section", "parallel", text] if arguments["section"] else ["--set", f"parallel={text}"]
