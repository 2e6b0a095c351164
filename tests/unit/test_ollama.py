"""The folder for Ollama: proof, refusals, Modelfile, and the engine that Ollama runs, with torch's answers."""

import hashlib
import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lissom import cli, cli_language
from lissom.data.tables import Row, write_table
from lissom.errors import InputError
from lissom.gguf import file
from lissom.gguf.answers import compare_answers, torch_answer
from lissom.gguf.card import Card
from lissom.gguf.checks import check_templates, check_tokens
from lissom.gguf.config import GgufParams
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.modelfile import PARAMETERS, Modelfile, parse
from lissom.gguf.ollama import BOUNDS, write_ollama
from lissom.gguf.proof import Window, compare, torch_windows
from lissom.gguf.running import find
from lissom.models.edits import KeepNeurons
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


def test_a_conversation_streams_with_the_modelfiles_settings(folder):
    _, place, _ = folder
    runnable = find(str(place))
    assert find(str(place.parent)).path == runnable.path == place / "texts-q8_0.gguf"
    assert runnable.options(5)["temperature"] == 0.7 and runnable.options(5)["stop"] == ["</s>"]
    # An untrained model may draw the end at once, or bytes that are no text: a seed that draws neither.
    seeded = replace(runnable.modelfile, parameters=(*runnable.modelfile.parameters, ("seed", 3)))
    runnable = replace(runnable, modelfile=seeded)
    server = runnable.start(threads=1)
    try:
        prompt = server.post(
            "/apply-template",
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "good"}]},
        )
        assert prompt["prompt"].startswith("system: Be brief.")
        pieces = list(runnable.reply(server, [{"role": "user", "content": "good"}], most=12))
        assert 1 <= len([piece for piece in pieces if piece]) <= 12
        assert "".join(runnable.continuation(server, "the film", most=12))
    finally:
        server.close()
    with pytest.raises(InputError, match="no GGUF file, and no folder with a Modelfile"):
        find(str(place / "nothing"))


def test_answers_are_torchs_and_changed_ones_are_shown(tmp_path):
    model = chat_model()
    source, prompts = gguf_model(model), [[9, 30, 12], [44, 27, 61, 8]]
    for kind in ("f32", "q2_k"):
        write_gguf(source, tmp_path / f"{kind}.gguf", FILE_TYPES[kind])
    found = compare_answers({kind: tmp_path / f"{kind}.gguf" for kind in ("f32", "q2_k")}, model, prompts, 64, 1)
    assert found["f32"].equal == 1 and found["f32"].changed == ()
    assert found["q2_k"].equal < 1
    change = found["q2_k"].changed[0]
    assert change.file != change.torch == model.tokenizer.decode(torch_answer(model, prompts[found["q2_k"].equal > 0]))


def test_a_type_above_its_bound_is_refused(tmp_path):
    model = chat_model()
    data, texts = texts_of(model, tmp_path)
    strict = PARAMS.model_copy(update={"max_kl_divergence": {"q4_k_m": 1e-6}})
    with pytest.raises(InputError, match=r"q4_k_m has a mean KL divergence .* allowed are 1e-06"):
        write_ollama(model, tmp_path, data, data, texts, strict)
    exact = PARAMS.model_copy(update={"f32_tolerance": 1e-12})
    with pytest.raises(InputError, match="f32_tolerance is 1e-12"):
        write_ollama(model, tmp_path, data, data, texts, exact)


CHATS = [
    json.dumps([{"role": "user", "content": question}, {"role": "assistant", "content": "good"}])
    for question in ("the film", "a bad story?")
]


def test_conversations_are_texts_that_are_compared(tmp_path, monkeypatch):
    model = chat_model()
    data, _ = texts_of(model, tmp_path)
    (tmp_path / "chat").mkdir()
    card = write_ollama(model, tmp_path / "chat", data, data, [], PARAMS, CHATS)
    assert card.texts_tokenized == 2 and card.conversations_rendered == 5
    with pytest.raises(InputError, match="no test texts"):
        write_ollama(model, tmp_path, data, data, [], PARAMS)
    of_tokenizer = file.vocabulary_of

    def reversed_merges(*arguments):
        vocabulary = of_tokenizer(*arguments)
        vocabulary.merges.reverse()
        return vocabulary

    monkeypatch.setattr(file, "vocabulary_of", reversed_merges)
    with pytest.raises(InputError, match="tokens of a text differ"):
        write_ollama(model, tmp_path, data, data, [], PARAMS, CHATS)


@pytest.mark.parametrize("kind", ["lost", "another", "too many"])
def test_tokens_that_end_an_answer_are_the_models(kind, tmp_path, monkeypatch):
    model = chat_model()
    data, texts = texts_of(model, tmp_path)
    match kind:
        case "lost":
            monkeypatch.setattr(gguf.GGUFWriter, "add_eos_token_id", lambda *_: None)
            message = "no token ends a text|does not end at '</s>'"
        case "another":
            real = gguf.GGUFWriter.add_eos_token_id
            monkeypatch.setattr(gguf.GGUFWriter, "add_eos_token_id", lambda writer, _: real(writer, 7))
            message = "ends a text, for the model '</s>'|does not end at '</s>'"
        case _:
            model.network.config.eos_token_id = [2, 9, 12, 30, 31]
            message = "whose config names 5 such tokens"
    with pytest.raises(InputError, match=message):
        write_ollama(model, tmp_path, data, data, texts, PARAMS)


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


def test_a_template_that_llama_cpp_cannot_read_is_refused(tmp_path):
    model = chat_model()
    task = model.manifest.task.model_copy(update={"chat_template": "{{ messages | groupby('role') }}" + TEMPLATE})
    write_gguf(gguf_model(model), tmp_path / "model.gguf", FILE_TYPES["f32"])
    model.manifest = model.manifest.model_copy(update={"task": task})
    write_gguf(gguf_model(model), tmp_path / "other.gguf", FILE_TYPES["f32"])
    with pytest.raises(InputError, match="probably the chat template"):
        check_templates(tmp_path / "other.gguf", task)


@pytest.mark.parametrize("damage", ["tensor", "half of the file", "template", "special token", "merges"])
def test_a_damaged_file_fails_the_proof(damage, tmp_path, monkeypatch):
    model = chat_model()
    _, texts = texts_of(model, tmp_path)
    source, path = gguf_model(model), tmp_path / "model.gguf"
    if damage == "template":
        task = model.manifest.task
        model.manifest = model.manifest.model_copy(
            update={"task": task.model_copy(update={"chat_template": TEMPLATE.replace(": ", "; ")})}
        )
    if damage == "special token":
        source.vocabulary.kinds[3] = gguf.TokenType.NORMAL
    if damage == "merges":
        source.vocabulary.merges.reverse()
    write_gguf(source, path, FILE_TYPES["f32"])
    windows = list(torch_windows(model.network, [list(range(4, 20))]))
    if damage == "tensor":
        tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.2.ffn_up.weight")
        with path.open("r+b") as file:
            file.seek(int(tensor.data_offset))
            file.write(b"\x00" * 4000)
    if damage == "half of the file":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    match damage:
        case "tensor":
            assert compare({"f32": path}, windows, 24, 1)["f32"].max_logit_difference > 0.05
        case "half of the file":
            with pytest.raises(InputError, match=r"llama\.cpp cannot load it"):
                compare({"f32": path}, windows, 24, 1)
        case "template":
            with pytest.raises(InputError, match="makes of a conversation"):
                check_templates(path, chat_model().manifest.task)
        case _:
            with pytest.raises(InputError, match="tokens of a text differ"):
                check_tokens(path, model.tokenizer, texts, ends=[2])


def test_the_measures_are_zero_for_equal_and_grow_with_the_difference(tmp_path):
    model = chat_model()
    write_gguf(gguf_model(model), tmp_path / "model.gguf", FILE_TYPES["f32"])
    window = next(iter(torch_windows(model.network, [list(range(4, 24))])))
    same = compare({"f32": tmp_path / "model.gguf"}, [window], 24, 1)["f32"]
    assert abs(same.mean_kl_divergence) < 1e-9 and same.perplexity_ratio == pytest.approx(1, abs=1e-5)
    shifted = compare({"f32": tmp_path / "model.gguf"}, [Window(window.tokens, window.logits + 7)], 24, 1)["f32"]
    assert abs(shifted.mean_kl_divergence) < 1e-6 and shifted.max_logit_difference == pytest.approx(7, abs=1e-3)
    sharper = compare({"f32": tmp_path / "model.gguf"}, [Window(window.tokens, window.logits * 2)], 24, 1)["f32"]
    log_p, log_q = (
        torch.from_numpy(logits[:-1]).double().log_softmax(-1) for logits in (window.logits * 2, window.logits)
    )
    expected = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    assert sharper.mean_kl_divergence == pytest.approx(expected, rel=1e-4) and sharper.same_top == 1


TEXT = (
    st.text(st.characters(blacklist_categories=("Cs", "Cc"), whitelist_characters="\n"), min_size=1, max_size=60)
    .map(str.strip)
    .filter(lambda text: text and '"""' not in text and not text.startswith('"') and not text.endswith('"'))
)
VALUES = {
    "int": st.integers(-1, 10**6),
    "float": st.floats(0, 100).map(lambda value: float(f"{value:g}")),
    "string": TEXT.filter(lambda text: "\n" not in text),
}
PAIRS = st.sampled_from(sorted(PARAMETERS)).flatmap(lambda name: st.tuples(st.just(name), VALUES[PARAMETERS[name]]))


@given(
    st.lists(PAIRS, max_size=5),
    TEXT,
    TEXT,
    TEXT,
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT), max_size=2),
)
def test_modelfiles_are_read_as_they_were_written(parameters, template, system, license_text, messages):
    modelfile = Modelfile("./m.gguf", tuple(parameters), template, system, license_text, tuple(messages), "0.12.0")
    assert parse(modelfile.text()) == modelfile


@pytest.mark.parametrize(("text", "message"), [
    ("PARAMETER stop x", "FROM is missing"),
    ("FROM x\nPARAMETER warmth 3", "PARAMETER warmth is not known"),
    ("FROM x\nPARAMETER num_ctx many", "must be of type int"),
    ("FROM x\nSHOUT loud", "'SHOUT' is no instruction"),
    ('FROM x\nSYSTEM """never ends', "has no closing"),
    ("FROM x\nMESSAGE robot hi", "allowed roles"),
])  # fmt: skip
def test_what_is_no_modelfile_is_told(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


def test_modelfiles_as_people_write_them():
    written = """# a comment
from ./model.gguf
parameter temperature 0.5
PARAMETER stop "<|end|>"

system \"""You are
kind.\"""
"""
    assert parse(written) == Modelfile(
        "./model.gguf", (("temperature", 0.5), ("stop", "<|end|>")), system="You are\nkind."
    )


def test_every_type_has_a_bound():
    assert set(BOUNDS) == set(FILE_TYPES) - {"f32"}
