"""The union of all tasks, as stored in manifests, and the task of a prepared data set."""

from typing import Annotated

from pydantic import Field

from lissom.data.prepare import DataCard
from lissom.tasks.classification import Classification
from lissom.tasks.language_modeling import LanguageModeling
from lissom.tasks.regression import Regression
from lissom.tasks.token_classification import TokenClassification
from lissom.tasks.translation import Translation

Tasks = Classification | Regression | TokenClassification | LanguageModeling | Translation
AnyTask = Annotated[Tasks, Field(discriminator="kind")]


def task_of(card: DataCard, max_length: int) -> Tasks:
    """Return the task of a prepared data set, with inputs of at most `max_length` tokens."""
    match card.task:
        case "classification":
            return Classification(name=card.name, labels=card.labels, pair=card.pair, max_length=max_length)
        case "regression":
            assert card.scale is not None
            return Regression(name=card.name, scale=card.scale, pair=card.pair, max_length=max_length)
        case "token_classification":
            return TokenClassification(name=card.name, labels=card.labels, pair=card.pair, max_length=max_length)
        case "language_modeling":
            return LanguageModeling(name=card.name, pair=False, max_length=max_length)
        case "translation":
            return Translation(name=card.name, pair=False, max_length=max_length)
