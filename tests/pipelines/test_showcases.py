"""Every file of params/ goes all the way on a tiny model of its family, with data made here."""

import json
import random

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from lissom.params import load_params
from lissom.report.ledger import Ledger
from tests.pipelines.conftest import PARAMS, ROOT, Workspace, read
from tests.unit import tiny
from tests.unit.test_gguf_base import TEMPLATE
from tests.unit.test_language_modeling import text
from tests.unit.test_token_classification import TAGS, tagged
from tests.unit.test_translation import pairs_of

SHORT = {"epochs": 3, "learning_rate": 2e-3, "freeze_word_table": False, "precision": "float32"}


def shortened(section):
    """A section with tiny trainings."""
    if isinstance(section, list):
        return [shortened(method) for method in section]
    if not isinstance(section, dict):
        return section
    return {
        name: SHORT | ({"loss": value["loss"]} if "loss" in value else {}) if name == "training" else value
        for name, value in section.items()
    }


def workspace_of(name, family, folder):
    """A workspace with the showcase's params, as far as a tiny model can have them."""
    params = yaml.safe_load((ROOT / "params" / name).read_text())
    result = Workspace(folder, threads=1)
    config = tiny.CONFIGS[family]()
    auto_class = AutoModelForCausalLM if family == "llama" else AutoModelForSequenceClassification
    auto_class.from_config(config).save_pretrained(folder / "base")
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), **names).save_pretrained(folder / "base")
    params = {section: shortened(values) for section, values in params.items()}
    params["base"] = {"model": "dir:base", "max_length": 16}
    params["data"]["source"] = "files:made"
    params["teacher"] = SHORT | {"epochs": 6, "keep": "best"}
    params["distill"]["blocks"] = [0, 3]
    params["prune"]["neuron_multiple"] = 8
    if params["factorize"]["method"] == "word_table":
        params["factorize"]["rank"] = 16
    params |= {name: PARAMS[name] for name in ("export", "evaluate", "emissions", "tracking")}
    params["variants"] = ["teacher", "quantize"]
    params["gates"] = {"max_score_drop": 0.3, "min_speedup": {}, "max_megabytes": 1}
    result.write_params(params)
    (folder / "made").mkdir()
    return result


def sentence(generator):
    return " ".join(generator.choices(tiny.WORDS, k=generator.randint(2, 8)))


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.name)
def test_every_showcase_is_valid(path):
    load_params(path)


@pytest.mark.slow
def test_intents_on_a_modernbert(tmp_path):
    result, generator = workspace_of("intents.yaml", "modernbert", tmp_path), random.Random(0)
    for split, count in (("train", 300), ("test", 80)):
        rows = [sentence(generator) for _ in range(count)]
        lines = [f"{text}\t{'praise' if 'good' in text or 'great' in text else 'other'}" for text in rows]
        (tmp_path / "made" / f"{split}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    result.run("lissom", "compress")
    ledger = Ledger.model_validate(read(result, "artifacts/report/ledger.json"))
    assert ledger.metric.name == "accuracy" and ledger.rows[-1].score > 0.75
    shown = result.run("lissom", "predict", "the good film").stdout
    assert "praise" in shown or "other" in shown


@pytest.mark.slow
def test_tags_of_words(tmp_path):
    result, generator = workspace_of("tagger.yaml", "distilbert", tmp_path), random.Random(0)
    for split, count in (("train", 300), ("test", 80)):
        rows = [tagged(sentence(generator)) for _ in range(count)]
        lines = [{"text": row.text.split(), "label": row.label.split()} for row in rows]
        (tmp_path / "made" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result.run("lissom", "compress")
    ledger = Ledger.model_validate(read(result, "artifacts/report/ledger.json"))
    assert ledger.metric.name == "entity_f1" and ledger.rows[0].score > 0.9 and ledger.rows[-1].score > 0.6
    page = (tmp_path / "artifacts/report/report.html").read_text()
    assert "word accuracy" in page and "floor, TF-IDF: could not be made" in page and "<h2>Labels</h2>" in page
    assert set(read(result, "metrics/evaluate/quantize/metrics.json")["quality"]["per_label"]) == {"film", "verdict"}
    text = "the film was good"
    assert {TAGS[word] for word in text.split() if word in TAGS} == {"B-film", "B-verdict"}
    champion = result.run("lissom", "predict", text).stdout
    exported = result.run("lissom", "predict", text, "--model", "artifacts/export/quantize").stdout
    torch = result.run("lissom", "predict", text, "--model", "artifacts/teacher").stdout
    assert champion == exported and "film (film" in torch and "good (verdict" in torch


@pytest.mark.slow
@pytest.mark.parametrize("own_tokens", [False, True])
def test_a_language_model(own_tokens, tmp_path):
    """As it is; and taught by hidden states too, without the tokens that no training text has."""
    result, generator = workspace_of("language_model.yaml", "llama", tmp_path), random.Random(0)
    if own_tokens:
        params = yaml.safe_load((tmp_path / "params.yaml").read_text())
        params["distill"]["method"] = "distilbert"
        params["factorize"] = [{"method": "word_table", "training": params["prune"]["training"]}]
        params["gates"]["max_score_drop"] = 1  # a word of the test is letters, which the training texts do not have
        result.write_params(params)
    for split, count in (("train", 300), ("dev", 30), ("test", 40)):
        texts = [text(generator, generator.randint(10, 40)) for _ in range(count)]
        if own_tokens and split == "train":
            texts = [one.replace("dull", "great") for one in texts]
        (tmp_path / "made" / f"{split}.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    result.run("lissom", "compress")
    ledger = Ledger.model_validate(read(result, "artifacts/report/ledger.json"))
    assert ledger.metric.name == "perplexity" and ledger.rows[0].score < 15 and ledger.rows[-1].score < 25
    quality = read(result, "metrics/evaluate/quantize/metrics.json")["quality"]["figures"]
    assert 1 < quality["perplexity"] < quality["word_perplexity"] * 2 and 0 < quality["bits_per_byte"] < 8
    page = (tmp_path / "artifacts/report/report.html").read_text()
    assert "bits per byte" in page and "test perplexity" in page
    assert ("reads the texts as other tokens than the teacher" in page) == own_tokens
    assert (read(result, "artifacts/quantize/config.json")["vocab_size"] < tiny.SIZE) == own_tokens
    prompt = "the film good movie"
    champion = result.run("lissom", "predict", prompt).stdout
    assert (
        "continuation" in champion
        and champion == result.run("lissom", "predict", prompt, "--model", "artifacts/export/quantize").stdout
    )
    assert "continuation" in result.run("lissom", "predict", prompt, "--model", "artifacts/teacher").stdout


@pytest.mark.slow
def test_a_language_model_for_ollama(tmp_path):
    """Fewer blocks and neurons, GGUF files with their proof in the report, and answers of llama.cpp on the command line."""
    result, generator = workspace_of("smollm2.yaml", "llama", tmp_path), random.Random(0)
    tokenizer = tiny.byte_level_tokenizer()
    config = tiny.CONFIGS["llama"]()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    AutoModelForCausalLM.from_config(type(config)(**(config.to_dict() | sizes))).save_pretrained(tmp_path / "base")
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, **names).save_pretrained(
        tmp_path / "base"
    )
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    gguf = {
        "types": ["q8_0", "q4_0"],
        "proof_tokens": 500,
        "calibration_tokens": 300,
        "name": "tiny",
        "temperature": 0,
        "max_kl_divergence": {"q4_0": 2},
    }
    params["export"] |= {"formats": ["onnx", "gguf"], "gguf": gguf}
    params["quantize"]["type"] = "q4_0"  # the widths of the tiny model are none of a K type
    result.write_params(params)
    for split, count in (("train", 300), ("dev", 30), ("test", 40)):
        texts = [text(generator, generator.randint(10, 40)) for _ in range(count)]
        (tmp_path / "made" / f"{split}.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    result.run("lissom", "compress")
    folder = tmp_path / "artifacts/export/quantize/ollama"
    card = read(result, "artifacts/export/quantize/ollama/card.json")
    assert card["f32"]["max_logit_difference"] < 1e-3 and [file["type"] for file in card["files"]] == ["q8_0", "q4_0"]
    assert len(card["neurons"]) == 2 and card["conversations_rendered"] == 3
    assert (folder / "Modelfile").read_text().startswith("FROM ./tiny-q8_0.gguf")
    page = (tmp_path / "artifacts/report/report.html").read_text()
    assert "Files for llama.cpp and Ollama" in page and "q4_0" in page
    writing = read(result, "metrics/evaluate/quantize/metrics.json")["writing"]
    assert list(writing["engines"]) == ["eager", "onnx", "q8_0", "q4_0"]
    assert writing["engines"]["q8_0"]["peak_rss_megabytes"] > 1 and "Speed of writing" in page
    joules = read(result, "metrics/emissions/metrics.json")["writing"]["joules"]
    assert joules.keys() == writing["engines"].keys() and all(joules[name]["value"] > 0 for name in joules)
    assert read(result, "artifacts/export/quantize/export.json")["gguf"] == card
    prompt = ("the film good movie", "--tokens", "5")
    assert result.run("lissom", "generate", *prompt).stdout.strip()
    assert result.run("lissom", "chat", *prompt, "--model", str(folder)).returncode == 0


@pytest.mark.slow
def test_a_translator_from_scratch(tmp_path):
    params = yaml.safe_load((ROOT / "params" / "translation.yaml").read_text())
    result = Workspace(tmp_path, threads=1)
    params["base"] |= {
        "shape": {"vocabulary": 512, "width": 32, "blocks": 3, "heads": 4, "neurons": 48},
        "max_length": 16,
    }
    params["data"]["source"] = "files:made"
    for section in ("teacher", "distill", "prune", "quantize"):
        training = params[section] if section == "teacher" else params[section]["training"]
        training |= SHORT | {"epochs": 10 if section == "teacher" else 4, "batch_size": 16, "learning_rate": 5e-3}
    params |= {name: PARAMS[name] for name in ("evaluate", "emissions", "tracking")}
    params["export"] = {"beams": 2, "label_agreement": 0.9, "int8_tolerance": 2.0}
    params["variants"] = ["teacher", "quantize"]
    params["gates"] = {"max_score_drop": 0.5, "min_speedup": {}, "max_megabytes": 1}
    result.write_params(params)
    (tmp_path / "made").mkdir()
    for seed, (split, count) in enumerate((("train", 200), ("dev", 24), ("test", 30))):
        lines = [{"en": row.text, "de": row.label} for row in pairs_of(count, seed)]
        (tmp_path / "made" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result.run("lissom", "compress")
    ledger = Ledger.model_validate(read(result, "artifacts/report/ledger.json"))
    assert ledger.metric.name == "bleu" and ledger.rows[0].score > 0.6 and ledger.rows[-1].score > 0.3
    page = (tmp_path / "artifacts/report/report.html").read_text()
    assert "chrf" in page.lower() and "test bleu" in page.lower()
    text = "the red dog sees a house"
    champion = result.run("lissom", "predict", text).stdout
    assert (
        "das" in champion
        and champion == result.run("lissom", "predict", text, "--model", "artifacts/export/quantize").stdout
    )
    assert "das" in result.run("lissom", "predict", text, "--model", "artifacts/teacher").stdout
