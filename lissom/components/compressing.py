"""The common work of prune, factorize and quantize: applying the recipes of their methods in order."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from lissom.components.stage import Outcome, Stage
from lissom.data.prepare import load_table
from lissom.models.compressed import CompressedModel
from lissom.models.vocabulary import changed_tokens
from lissom.training.compress import compress
from lissom.training.config import RecoveryParams
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.teacher import load_logits


class Method(Protocol):
    """Params of one method of a stage."""

    @property
    def method(self) -> str:
        """Return the name of the method."""
        ...

    @property
    def training(self) -> RecoveryParams | None:
        """Return the params of the training after the edits; None without one."""
        ...

    def model_dump_json(self) -> str:
        """Return the params as JSON."""
        ...


M = TypeVar("M", bound=Method)


def apply_methods(
    stage: Stage, methods: Sequence[M], plan: Callable[[CompressedModel, Lesson, M], Recipe], lesson: Lesson
) -> Outcome:
    """Plan and apply every method to the result of the previous one; without methods the model does not change."""
    model = stage.load("model")
    before, outcome = model.tokenizer, Outcome(metrics={"method": "none"}, model=model, method="none")
    history: list[dict[str, float]] = []
    metrics: dict[str, Any] = {}
    if methods:  # read once: counting the rows may tokenise all texts
        tables = [lesson.tables[name] for name in ("train", "transfer")]
        teacher = load_logits(stage.inputs["logits"], model.count_rows(tables))
    for number, params in enumerate(methods, 1):
        recipe = plan(model, lesson, params)
        phase = "training" if len(methods) == 1 else f"{number}-{params.method}"
        result = compress(
            model, recipe, lesson, teacher, params.training, phase=phase, identity=params.model_dump_json()
        )  # fmt: skip
        steps = int(history[-1]["step"]) if history else 0
        records = [] if result.training is None else result.training.records
        history += [{**record, "step": record["step"] + steps} for record in records]
        metrics |= (
            result.metrics if len(methods) == 1 else {phase: result.metrics, "dev_score": result.metrics["dev_score"]}
        )
    if methods:
        name = "+".join(params.method for params in methods)
        outcome = Outcome({"method": name, **metrics}, history, model, name)
    if model.tokenizer is not before:
        texts = load_table(stage.inputs["data"], "test").texts()
        outcome.metrics["test_tokens"] = changed_tokens(before, model.tokenizer, texts)
    return outcome
