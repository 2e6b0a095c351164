"""Tasks of lm-evaluation-harness: the metrics of a task file are those by hand, for a model in any form."""

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lissom.cli import app
from lissom.errors import InputError
from lissom.evaluate.engines import open_engine
from lissom.evaluate.harness import HarnessModel, run
from lissom.export.onnx import export_onnx
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.models.directory import save
from tests.unit.test_gguf import model_of

QUESTIONS = [
    {"question": "the film was", "choices": ["good", "bad", "dull"], "answer": 0},
    {"question": "the plot is not", "choices": ["fine", "poor", "great"], "answer": 2},
    {"question": "a very", "choices": ["good story", "bad movie", "dull scene"], "answer": 1},
    {"question": "the ending was", "choices": ["great", "poor", "bad"], "answer": 1},
]
TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """One model as a directory, as an exported folder and as a GGUF file, and a task file."""
    folder = tmp_path_factory.mktemp("harness")
    model = model_of("llama", num_hidden_layers=2)
    save(model, folder / "model")
    (folder / "export").mkdir()
    export_onnx(model, folder / "export")
    write_gguf(gguf_model(model), folder / "model.gguf", FILE_TYPES["f32"])
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "tiny.yaml").write_text(TASK.format(data=folder / "test.jsonl"))
    return folder, model


def names_of(folder):
    return [str(folder / "model"), str(folder / "export"), str(folder / "model.gguf")]


def likelihood(model, question, choice):
    """The log-likelihood of a choice after its question, by hand."""
    encode = model.tokenizer.encode
    whole = encode(f"{question} {choice}").ids[:-1]  # without the token that ends texts
    count = len(whole) - (len(encode(question).ids) - 1)
    with torch.no_grad():
        rows = model.network(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(rows[place - 1, whole[place]]) for place in range(len(whole) - count, len(whole)))


def test_accuracy_is_that_by_hand(forms):
    folder, model = forms
    right = [
        int(np.argmax([likelihood(model, row["question"], choice) for choice in row["choices"]])) == row["answer"]
        for row in QUESTIONS
    ]
    results = run(names_of(folder), [str(folder / "tiny.yaml")], shots=None, limit=None)
    assert [results[name]["tiny_choice"]["acc"] for name in names_of(folder)] == [np.mean(right)] * 3


def test_likelihoods_of_all_forms_are_torchs(forms):
    folder, model = forms
    expected = likelihood(model, "the film was", "good")
    for name in names_of(folder):
        harness = HarnessModel(open_engine(name))
        pair = harness._encode_pair("the film was", " good")
        ((value, _),) = harness._loglikelihood_tokens([(None, *pair)])
        assert value == pytest.approx(expected, abs=1e-3)


def test_windows_of_a_long_text_are_counted_once(forms):
    """Every token once, each window with the token before it as its context."""
    folder, model = forms
    text = "the good film was not bad and the story is very dull " * 3
    tokens = model.tokenizer.encode(text, add_special_tokens=False).ids
    expected = 0.0
    for start in range(0, len(tokens), 23):
        window = [*([tokens[start - 1]] if start else [0]), *tokens[start : start + 23]]
        with torch.no_grad():
            rows = model.network(input_ids=torch.tensor([window])).logits[0].log_softmax(-1)
        expected += sum(float(rows[place, token]) for place, token in enumerate(window[1:]))
    request = type("Request", (), {"args": (text,)})
    actual = HarnessModel(open_engine(str(folder / "model"))).loglikelihood_rolling([request])
    assert math.isclose(actual[0], expected, rel_tol=1e-4)


def test_answers_end_at_the_strings_that_end_them(forms):
    folder, _ = forms
    answers = []
    for name in names_of(folder):
        harness = HarnessModel(open_engine(name))
        request = type("Request", (), {"args": ("the film", {"max_gen_toks": 6})})
        whole = harness.generate_until([request])[0]
        assert whole
        cut = type("Request", (), {"args": ("the film", {"max_gen_toks": 6, "until": [whole[2:4]]})})
        assert harness.generate_until([cut])[0] == whole[: whole.find(whole[2:4])]
        answers.append(whole)
    assert answers[0] == answers[1]


def test_the_command_sets_models_side_by_side(forms, tmp_path):
    folder, _ = forms
    model, file = names_of(folder)[0], names_of(folder)[2]
    command = [
        "harness",
        str(folder / "tiny.yaml"),
        "--model",
        model,
        "--model",
        file,
        "--output",
        str(tmp_path / "r.json"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "tiny_choice" in done.output and "acc" in done.output
    assert json.loads((tmp_path / "r.json").read_text()).keys() == {model, file}


def test_mistakes_are_told(forms, tmp_path):
    folder, _ = forms
    with pytest.raises(InputError, match="no such task file"):
        run([str(folder / "model")], ["missing.yaml"], None, None)
    with pytest.raises(InputError, match="knows no task nothing_like_this"):
        run([str(folder / "model")], ["nothing_like_this"], None, None)
    (tmp_path / "other.yaml").write_text("metric: acc\n")
    with pytest.raises(InputError, match="needs the key task"):
        run([str(folder / "model")], [str(tmp_path / "other.yaml")], None, None)
