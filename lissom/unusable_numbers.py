"""Numbers in params that have the right type and that no stage can use, whatever the other sections say."""

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel


def unusable_numbers(params: BaseModel) -> list[str]:
    """Return what is wrong with single numbers, in words: those that are not finite, and seeds below 0."""
    problems = []
    for key, value in _numbers(params):
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{key}: {value}; a finite number is expected")
        elif key.endswith("seed") and value < 0:
            problems.append(f"{key}: {value}; seeds are 0 or greater")
    return problems


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield all numbers of params with their keys."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _numbers(getattr(value, name), f"{key}.{name}" if key else name)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _numbers(item, key if len(value) == 1 else f"{key}.{number}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value
