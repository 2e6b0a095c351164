"""Other ways through the DAG than the usual one: exits, a student that is no Transformer, nothing at all."""

import subprocess
import sys

import pytest

import lissom
from lissom.artifacts import STEPS
from lissom.report.ledger import Ledger
from tests.pipelines.conftest import PARAMS, Workspace, lissom_predict, read

VARIANTS = ["teacher", "quantize"]
"""Fewer exports than the usual way has."""
WITH_STUDENT = ["teacher", "distill", "quantize"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A workspace with what comes before every variation: data, a teacher, and what is measured of it."""
    result = Workspace(tmp_path_factory.mktemp("taught"), threads=1)
    result.run("dvc", "repro", "export@teacher", "evaluate@teacher")
    return result


@pytest.mark.slow
def test_a_model_with_exits_goes_all_the_way(taught, tmp_path):
    """Distilled, quantised, exported, evaluated over its speeds, registered with the chosen one as default."""
    other, none = taught.copied_to(tmp_path), {"method": "none"}
    short = {"epochs": 2, "learning_rate": 2e-3, "precision": "float32"}
    fastbert = {"method": "fastbert", "exit_size": 16, "backbone_training": short, "training": short}
    other.write_params(PARAMS | {"variants": VARIANTS, "distill": fastbert, "prune": none, "factorize": none})
    other.run("dvc", "repro")
    final = read(other, "metrics/evaluate/quantize/metrics.json")
    chosen = final["exits"]["chosen"]
    settings = {setting["speed"]: setting for setting in final["exits"]["settings"]}
    assert settings[-1.0]["mean_depth"] == 4 and settings[-1.0]["flops_ratio"] == 1
    assert final["quality"]["score"] == settings[chosen]["score"]
    assert read(other, "artifacts/export/quantize/serving.json")["speed"] == chosen  # what is registered is measured
    assert "Leaving early" in (other.folder / "artifacts/report/report.html").read_text()
    code = """
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/lissom-data@challenger")
texts = pd.DataFrame({"text": ["the film was good"], "text_pair": ["very good film"]})
print(model.metadata.signature.params.params[0].default, *[model.predict(texts, params={"speed": s})["label"][0] for s in (-1.0, 1.0)])
"""
    env = other.env | {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    done = subprocess.run([sys.executable, "-c", code], cwd=other.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[0]) == chosen
    for speed in ("-1", "1"):
        assert lissom_predict(other, "the film was good", "very good film", "--speed", speed) in ("match", "mismatch")


@pytest.mark.slow
def test_a_student_that_is_no_transformer_goes_all_the_way(taught, tmp_path):
    other, none = taught.copied_to(tmp_path), {"method": "none"}
    lstm = {
        "method": "lstm", "embedding_size": 16, "hidden_size": 12, "classifier_size": 12, "min_count": 1,
        "augmentation": {"mask_probability": 0},  # the tiny tokenizer has no mask token
        "training": {"epochs": 4, "learning_rate": 1e-2, "weight_decay": 0, "freeze_word_table": False},
    }  # fmt: skip
    params = PARAMS | {"variants": WITH_STUDENT, "distill": lstm, "factorize": none, "quantize": none}
    other.write_params(params)
    refused = other.run("lissom", "params", "check", check=False)
    assert refused.returncode == 1 and "set prune.method: none" in refused.stderr + refused.stdout
    other.write_params(params | {"prune": none})
    other.run("dvc", "repro")
    ledger = Ledger.model_validate(read(other, "artifacts/report/ledger.json"))
    assert ledger.rows[1].method == "lstm" and ledger.rows[1].parameters < ledger.rows[0].parameters
    label = lissom_predict(other, "the film was good", "very good film")
    assert label == lissom_predict(other, "the film was good", "very good film", "--model", "artifacts/distill")


@pytest.mark.slow
def test_blocks_channels_and_a_budget_of_latency_go_all_the_way(taught, tmp_path):
    """Trained with blocks left out, narrowed, cut to a measured latency; then factorised, quantised and registered."""
    other, short = taught.copied_to(tmp_path), PARAMS["prune"]["training"]
    prune = [
        {"method": "layer_drop", "blocks": 3, "training": short},
        {"method": "hidden", "keep": 0.75, "multiple": 8, "training": short},
        {"method": "first_order", "neuron_multiple": 8, "budget": {"of": "latency", "keep": 0.97}, "training": short},
    ]
    other.write_params(PARAMS | {"variants": VARIANTS, "distill": {"method": "none"}, "prune": prune})
    other.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    other.run("dvc", "repro")
    steps = read(other, "artifacts/quantize/lissom.json")["steps"]
    metrics = next(step["metrics"] for step in steps if step["stage"] == "prune")
    assert metrics["2-hidden"]["channels"] == {"before": 32, "after": 24}
    kinds = [edit["kind"] for edit in read(other, "artifacts/quantize/lissom.json")["edits"]]
    assert [kind for kind in kinds if kind.startswith("keep_")][:2] == ["keep_blocks", "keep_channels"]
    final = read(other, "metrics/evaluate/quantize/metrics.json")
    assert final["exported"]["integer_kernels"] > 0 and final["anatomy"]["total"] > 0
    assert lissom_predict(other, "the film was good", "very good film") in ("match", "mismatch")


@pytest.mark.slow
def test_a_student_without_blocks_goes_all_the_way(taught, tmp_path):
    """Factorised, quantised, exported with integers, measured and registered."""
    other, none = taught.copied_to(tmp_path), {"method": "none"}
    static = {
        "method": "static",
        "embedding_size": 24,
        "classifier_size": 12,
        "training": {"epochs": 4, "learning_rate": 1e-2},
    }
    other.write_params(PARAMS | {"variants": WITH_STUDENT, "distill": static, "prune": none})
    other.run("dvc", "repro")
    ledger = Ledger.model_validate(read(other, "artifacts/report/ledger.json"))
    assert ledger.rows[1].method == "static" and ledger.rows[-1].score > 0.9
    assert read(other, "artifacts/export/quantize/export.json")["integer_kernels"] == 2
    assert [floor.model for floor in ledger.floors] == ["TF-IDF + LogisticRegression", "static embeddings"]
    for name in ("TF-IDF", "static embeddings"):
        assert f"floor, {name}" in (other.folder / "artifacts/report/report.html").read_text()
    label = lissom_predict(other, "the film was good", "very good film")
    assert label == lissom_predict(other, "the film was good", "very good film", "--model", "artifacts/export/quantize")


@pytest.mark.slow
def test_factors_and_weights_in_groups_go_all_the_way(taught, tmp_path):
    """A vocabulary of the texts, thin factors, four bits with a correction: exported, measured, reported, registered."""
    other, none = taught.copied_to(tmp_path), {"method": "none"}
    short = {"epochs": 1, "learning_rate": 2e-3, "precision": "float32"}
    factorize = [
        {"method": "word_table", "vocabulary": 300, "min_count": 1, "training": short},
        {"method": "low_rank", "keep": 0.6, "training": short},
    ]
    quantize = {"method": "weight_only", "rounding": "gptq", "average_bits": 4, "group": 16, "correction": 1}
    other.write_params(
        PARAMS | {"variants": VARIANTS, "distill": none, "prune": none, "factorize": factorize, "quantize": quantize}
    )
    other.run("dvc", "repro")
    ledger = Ledger.model_validate(read(other, "artifacts/report/ledger.json"))
    assert ledger.rows[-1].megabytes < ledger.rows[0].megabytes
    kinds = [edit.kind for edit in lissom.load(other.folder / "artifacts/quantize").manifest.edits]
    assert kinds[0] == "new_vocabulary" and kinds[-2:] == ["low_rank", "group_weights"]
    page = (other.folder / "artifacts/report/report.html").read_text()
    assert "corrected at rank 1" in page and "tokens learnt from the texts" in page
    label = lissom_predict(other, "the film was good", "very good film")
    assert label == lissom_predict(other, "the film was good", "very good film", "--model", "artifacts/quantize")
    shown = other.run("lissom", "compare", "artifacts/teacher", "artifacts/quantize", "--blocks").stdout
    assert "before and after" in shown
    assert "4 bits" in other.run("lissom", "sensitivity", "--change", "4 bits", "--examples", "8").stdout


@pytest.mark.slow
def test_a_number_is_predicted_all_the_way(tmp_path):
    """Teacher, distilled, pruned, factorised and quantised student, page, registry and prediction, in the data's unit."""
    other = Workspace(tmp_path, threads=1)
    for path in (other.folder / "data").glob("t*.tsv"):
        path.write_text(path.read_text().replace("\tmatch", "\t450.5").replace("\tmismatch", "\t125"))
    (other.folder / "data" / "dev.tsv").unlink()  # held out of train, by deciles
    longer = {"teacher": PARAMS["teacher"] | {"epochs": 8}, "data": PARAMS["data"] | {"task": "regression"}}
    other.write_params(PARAMS | longer | {"variants": VARIANTS})
    other.run("dvc", "repro")
    ledger = Ledger.model_validate(read(other, "artifacts/report/ledger.json"))
    assert ledger.metric.name == "pearson" and ledger.rows[0].score > 0.9 and ledger.rows[-1].score > 0.8
    page = (other.folder / "artifacts/report/report.html").read_text()
    assert "root mean squared error" in page and "test pearson" in page
    pairs = [("the film was very long", pair) for pair in ("great movie", "poor story")]
    values = [float(lissom_predict(other, *pair)) for pair in pairs]
    assert all(50 < value < 525 for value in values)  # the data's unit, not the standardised one
    again = [float(lissom_predict(other, *pair, "--model", "artifacts/export/quantize")) for pair in pairs]
    assert again == values


@pytest.mark.slow
def test_method_none_passes_models_on(taught, tmp_path):
    """The encoder of what comes out is exported for embeddings, too."""
    other = taught.copied_to(tmp_path)
    none = {"method": "none"}
    export = PARAMS["export"] | {"formats": ["onnx", "gguf"], "gguf": {"types": ["q8_0"]}}
    other.write_params(PARAMS | {"distill": none, "prune": none, "factorize": none, "quantize": none, "export": export})
    other.run("dvc", "repro", "export@quantize")
    weights = [(other.folder / "artifacts" / stage / "model.safetensors").read_bytes() for stage in STEPS]
    assert len(set(weights)) == 1
    assert lissom.load(other.folder / "artifacts/quantize").manifest.edits == ()
    card = read(other, "artifacts/export/quantize/export.json")["gguf"]
    assert card["kind"] == "embeddings" and card["f32"]["cosine_min"] > 0.99999
    assert (other.folder / "artifacts/export/quantize/ollama" / card["files"][0]["file"]).is_file()
