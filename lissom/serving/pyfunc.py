"""The registered model, as code that MLflow runs when it loads a version: no pickle, no torch, no transformers."""

from collections.abc import Mapping
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from lissom.serving.classifier import VALUE, OnnxClassifier

ARTIFACT = "exported"


class TextClassifier(PythonModel):  # type: ignore[misc, unused-ignore]
    """Takes a table with the column `text` (and `text_pair`), gives label and probabilities, or a value, per row."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the exported folder."""
        self._classifier = OnnxClassifier(context.artifacts[ARTIFACT])

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return `label`, `probability` and `probability_of_<label>`, or `value`.

        `speed` is a param of models with exits.
        """
        pairs = model_input["text_pair"].tolist() if "text_pair" in model_input else None
        speed = params.get("speed") if params else None
        answers = self._classifier.predict(model_input["text"].tolist(), pairs, speed)
        if not self._classifier.labels:
            return pd.DataFrame({VALUE: [answer[VALUE] for answer in answers]})
        best = [max(answer, key=answer.__getitem__) for answer in answers]
        columns = {
            "label": best,
            "probability": [answer[label] for answer, label in zip(answers, best, strict=True)],
            **{f"probability_of_{label}": [answer[label] for answer in answers] for label in self._classifier.labels},
        }
        return pd.DataFrame(columns)


mlflow.models.set_model(TextClassifier())
