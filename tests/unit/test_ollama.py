"""The folder for Ollama: proof, refusals, Modelfile, and the engine that Ollama runs, with torch's answers."""

import hashlib
import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lissom import cli, cli_language
from lissom.data.tables import Row, write_table
from lissom.errors import InputError
from lissom.gguf.card import Card
from lissom.gguf.config import GgufParams
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.modelfile import parse
from lissom.gguf.ollama import BOUNDS, write_ollama
from lissom.gguf.running import continuation, find, reply
from lissom.models.edits import KeepNeurons
from lissom.tasks.chat import as_text
from tests.unit import tiny
from tests.unit.test_gguf import TEXTS, model_of
from tests.unit.test_gguf_base import TEMPLATE

PARAMS = GgufParams(
    types=("q8_0", "q4_k_m"),
    proof_tokens=400,
    calibration_tokens=200,
    license="mit",
    system="Be brief.",
    requires="0.12.0",
    max_kl_divergence={"q4_k_m": 3},
)


def chat_model(**changes):
    model = model_of(
        "llama", hidden_size=256, intermediate_size=256, head_dim=64, max_position_embeddings=64, **changes
    )
    task = model.manifest.task.model_copy(update={"chat_template": TEMPLATE})
    model.manifest = model.manifest.model_copy(update={"task": task})
    return model


def texts_of(model, folder, count=40):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(tiny.WORDS, 12)) for _ in range(count)]
    table = write_table(folder / "texts.arrow", [Row(text, None, None) for text in texts])
    return model.manifest.task.encode([table], model.tokenizer, folder / "tokens"), texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with blocks of different widths, and its files."""
    place = tmp_path_factory.mktemp("ollama")
    model = chat_model()
    model.edit([KeepNeurons(kept=tuple(tuple(range(count)) for count in (256, 128, 256, 64)))])
    data, texts = texts_of(model, place)
    (place / "ollama").mkdir()
    card = write_ollama(model, place / "ollama", data, data, texts, PARAMS)
    return model, place / "ollama", card


def test_the_folder_holds_files_proof_and_commands(folder):
    _, place, card = folder
    assert sorted(path.name for path in place.iterdir()) == [
        "Modelfile", "Modelfile.q4_k_m", "Modelfile.q8_0", "README.md", "card.json", "card.md", "texts-q4_k_m.gguf", "texts-q8_0.gguf",
    ]  # fmt: skip
    assert Card.model_validate(json.loads((place / "card.json").read_text())) == card
    assert card.architecture == "deci" and card.neurons == (256, 128, 256, 64)
    assert card.f32.max_logit_difference < 1e-4 and card.f32.same_top == 1 and card.conversations_rendered == 3
    q8, q4 = (file.agreement for file in card.files)
    assert 0 < q8.mean_kl_divergence < q4.mean_kl_divergence and q8.perplexity_ratio == pytest.approx(1, abs=0.05)
    answers = [file.answers for file in card.files]
    assert [each.prompts for each in answers] == [16, 16] and answers[0].equal >= answers[1].equal
    assert answers[1].equal == 1 - len(answers[1].changed) / 16 or len(answers[1].changed) == 3
    modelfile = parse((place / "Modelfile").read_text())
    assert modelfile.requires == "0.12.0"
    assert modelfile.source == "./texts-q8_0.gguf" and ("stop", "</s>") in modelfile.parameters
    assert (modelfile.system, modelfile.license, modelfile.template) == ("Be brief.", "mit", None)
    assert dict(modelfile.parameters)["num_ctx"] == 64  # the model reads no more
    for line in (place / "README.md").read_text().splitlines():
        if line.startswith("ollama create"):
            assert (place / line.split(" -f ")[1]).is_file()
    fields = gguf.GGUFReader(place / "texts-q4_k_m.gguf").fields
    proof = json.dumps(card.files[1].agreement.model_dump(mode="json"), sort_keys=True)
    assert fields["lissom.proof.sha256"].contents() == hashlib.sha256(proof.encode()).hexdigest()
    assert fields["general.base_model.count"].contents() == 1
    assert hashlib.sha256((place / "texts-q4_k_m.gguf").read_bytes()).hexdigest() == card.files[1].sha256
    assert (
        fields["lissom.edits"].contents().startswith("kept 256 + 128") and fields["general.license"].contents() == "mit"
    )


def test_the_engine_answers_as_torch_does(folder):
    """The folder served with its Modelfile, greedily: the same tokens as torch's most likely ones."""
    model, place, _ = folder
    write_gguf(gguf_model(model), place.parent / "f32.gguf", FILE_TYPES["f32"])
    server = find(str(place.parent / "f32.gguf")).start(threads=1)
    try:
        for text in TEXTS:
            ids = model.tokenizer.encode(text).ids[:-1]
            given = len(ids)
            with torch.no_grad():
                while len(ids) < given + 6:
                    ids.append(int(model.network(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            body = {
                "prompt": ids[:given],
                "max_tokens": 6,
                "temperature": 0,
                "logit_bias": [[2, False]],
                "return_tokens": True,
            }
            answer = server.post("/completion", {**body, "n_predict": 6})
            ended = ids[given:].index(2) if 2 in ids[given:] else 6
            assert answer["tokens"][:ended] == ids[given:][:ended]
        with pytest.raises(ValueError, match="refuses"):
            server.post("/v1/chat/completions", {"messages": 3})
    finally:
        server.close()


def test_a_server_has_the_modelfiles_settings_and_messages(folder):
    """For requests that name none, as those of a client that knows nothing of the Modelfile."""
    _, place, _ = folder
    runnable = find(str(place))
    assert find(str(place.parent)).path == runnable.path == place / "texts-q8_0.gguf"
    # An untrained model may draw the end at once, or bytes that are no text: a seed that draws neither.
    parameters = (*runnable.modelfile.parameters, ("seed", 3), ("top_k", 7), ("stop", "film"))
    said = (("user", 'a "good" film\n'), ("assistant", "yes"))
    runnable = replace(runnable, modelfile=replace(runnable.modelfile, parameters=parameters, messages=said))
    question = {"role": "user", "content": "good"}
    server = runnable.start(threads=1)
    try:
        for first, expected in (([], "Be brief."), ([{"role": "system", "content": "Sing."}], "Sing.")):
            prompt = server.post("/apply-template", {"messages": [*first, question]})["prompt"]
            conversation = [{"role": role, "content": text} for role, text in (("system", expected), *said)]
            assert prompt == as_text([*conversation, question], TEMPLATE, {}, reply=True)
        used = server.post("/completion", {"prompt": "good", "n_predict": 1})["generation_settings"]
        assert used["temperature"] == pytest.approx(0.7) and (used["top_k"], used["seed"]) == (7, 3)
        assert used["stop"] == ["</s>", "film"]
        pieces = list(reply(server, [question], most=12))
        assert 1 <= len([piece for piece in pieces if piece]) <= 12
        assert "".join(continuation(server, "the film", most=12))
    finally:
        server.close()


def test_a_model_without_a_template_continues_texts(tmp_path):
    model = chat_model()
    task = model.manifest.task.model_copy(update={"chat_template": None})
    model.manifest = model.manifest.model_copy(update={"task": task})
    data, texts = texts_of(model, tmp_path)
    (tmp_path / "plain").mkdir()
    write_ollama(model, tmp_path / "plain", data, data, texts, PARAMS)
    assert parse((tmp_path / "plain/Modelfile").read_text()).template == "{{ .Prompt }}"
    with pytest.raises(InputError, match="has no chat template, it continues texts"):
        cli_language.chat("good", str(tmp_path / "plain"))


@pytest.mark.parametrize("option", ["--parallel", "--queue"])
def test_bounds_that_llama_cpp_does_not_know_are_refused(option, tmp_path):
    (tmp_path / "model.gguf").touch()
    result = CliRunner().invoke(cli.app, ["serve", "--model", str(tmp_path / "model.gguf"), option, "2"])
    assert isinstance(result.exception, InputError) and "leave out --parallel and --queue" in str(result.exception)


def test_every_type_has_a_bound():
    assert set(BOUNDS) == set(FILE_TYPES) - {"f32"}
