"""Zero- and few-shot tasks by EleutherAI's lm-evaluation-harness, for a language model in any form.

Gao et al., https://github.com/EleutherAI/lm-evaluation-harness. Needs the extra `harness`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.errors import InputError, advice_for
from lissom.evaluate.engines import Engine, open_engine
from lissom.safe_yaml import parse

try:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ModuleNotFoundError as error:
    if (advice := advice_for(error)) is None:
        raise
    raise InputError(advice) from None

_GENERATED = 256
"""Most tokens of an answer, where a task says nothing."""


def run(models: Sequence[str], tasks: Sequence[str], shots: int | None, limit: int | None) -> dict[str, dict[str, Any]]:
    """Return the metrics of every task, `{model: {task: {metric: value}}}`.

    Args:
        models: model directories, exported folders, folders for Ollama or GGUF files.
        tasks: names of the harness's tasks, or task files of one's own (YAML).
        shots: examples before every question; None takes the task's number.
        limit: questions of every task; None takes all.

    Raises:
        InputError: a model is no language model, or a task is not known.
    """
    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such task file")
    folders = sorted({str(file.parent.resolve()) for file in files})
    manager = TaskManager(include_path=folders, include_defaults=len(files) < len(tasks))  # there are thousands
    names = [_name_of(Path(task)) if Path(task) in files else task for task in tasks]
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise InputError(
            f"the harness knows no task {', '.join(unknown)}; give a task file, or a name of `lm_eval ls tasks`"
        )
    for model in models:  # before the first is measured
        if not Path(model).exists():
            raise InputError(f"{model}: no such model; name a folder or a GGUF file")
    results = {}
    for model in models:
        outcome = simple_evaluate(
            HarnessModel(open_engine(model)), tasks=list(names), num_fewshot=shots, limit=limit, log_samples=False,
            task_manager=manager,
        )  # fmt: skip
        results[model] = {
            task: {name.removesuffix(",none"): value for name, value in values.items() if isinstance(value, float)}
            for task, values in outcome["results"].items()
        }
    return results


def _name_of(file: Path) -> str:
    content = parse(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "task" not in content:
        raise InputError(f"{file}: a task file needs the key task, its name")
    return str(content["task"])


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """An engine as the harness wants models to be: one text at a time."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    @property
    def eot_token_id(self) -> int:
        """Return the token that ends texts."""
        return next(iter(self._engine.ends), self._engine.start)

    @property
    def prefix_token_id(self) -> int:
        """Return the token before a text that has no context."""
        return self._engine.start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text; by default with those that begin one."""
        return self._engine.encode(string, add_special_tokens is not False)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Return log-likelihood of each continuation after its context, and whether it is the greedy one."""
        return [self._likelihood(context, continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Return the log-likelihood of whole texts, in windows that do not overlap."""
        totals = []
        for request in requests:
            tokens, total = self._engine.encode(request.args[0], False), 0.0
            size = self._engine.longest - 1
            for start in range(0, len(tokens), size):
                before = [tokens[start - 1]] if start else [self.prefix_token_id]
                total += self._likelihood(before, tokens[start : start + size])[0]
            totals.append(total)
        return totals

    def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Return greedy continuations up to the strings that end them."""
        return [self._written(*request.args) for request in requests]

    def _likelihood(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        tokens = [*context, *continuation][-(self._engine.longest + 1) :]
        count = min(len(continuation), len(tokens) - 1)
        logits: NDArray[np.float32] = self._engine.logits(tokens[:-1])[-count:]
        targets = np.asarray(tokens[-count:])
        chosen = torch.from_numpy(logits).double().log_softmax(-1).numpy()[np.arange(count), targets]
        return float(chosen.sum()), bool((logits.argmax(-1) == targets).all())

    def _written(self, prompt: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        most = min(int(settings.get("max_gen_toks", _GENERATED)), self._engine.longest // 2)
        tokens = self._engine.encode(prompt, True)[-(self._engine.longest - most) :]
        logits, state = self._engine.step(tokens, None)
        written: list[int] = []
        text = ""
        while len(written) < most and (token := int(logits.argmax())) not in self._engine.ends:
            written.append(token)
            text = self._engine.decode(written)
            if any(stop in text for stop in stops):
                break
            logits, state = self._engine.step([token], state)
        return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
