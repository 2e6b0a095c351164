"""The registered model as code that MLflow runs to load a version; needs no pickle, torch or transformers."""

import json
from collections.abc import Mapping
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from lissom.serving.classifier import OnnxClassifier

ARTIFACT = "exported"


class TextClassifier(PythonModel):  # type: ignore[misc, unused-ignore]
    """Maps a table with the column `text` (and `text_pair`) to an answer of the task's kind."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the exported folder."""
        self._classifier = OnnxClassifier(context.artifacts[ARTIFACT])

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return `label`, `probability` and `probability_of_<label>`, or `value`, `spans` as JSON and `truncated`,
        `continuation` or `translation`.

        `speed` is a param of models with exits.
        """
        pairs = model_input["text_pair"].tolist() if "text_pair" in model_input else None
        speed = params.get("speed") if params else None
        answers = self._classifier.predict(model_input["text"].tolist(), pairs, speed)
        return pd.DataFrame([_row(answer) for answer in answers])


def _row(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer as one row, with a column per probability."""
    row = {name: value for name, value in answer.items() if name != "probabilities"}
    if "spans" in row:
        row["spans"] = json.dumps(row["spans"], ensure_ascii=False)
    if (probabilities := answer.get("probabilities")) is not None:
        row["probability"] = probabilities[answer["label"]]
        row |= {f"probability_of_{label}": value for label, value in probabilities.items()}
    return row


mlflow.models.set_model(TextClassifier())
