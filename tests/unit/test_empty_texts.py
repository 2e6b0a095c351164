"""A text without tokens has no answer, alone or among others."""

import pytest
from tokenizers import processors

from lissom.export.onnx import export_onnx
from lissom.serving.classifier import OnnxClassifier
from tests.unit import tiny


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    model = tiny.model("gpt2")
    model.tokenizer.post_processor = processors.Sequence([])  # GPT-2's adds no special tokens either
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(model, folder)
    return OnnxClassifier(folder)


@pytest.mark.parametrize("texts", [[""], ["good film", "  "]])
def test_an_empty_text_is_refused(classifier, texts):
    with pytest.raises(ValueError, match="a text has no tokens"):
        classifier.predict(texts)


def test_other_texts_are_answered(classifier):
    assert classifier.predict(["good film"])[0]["label"] in tiny.TASK.labels
