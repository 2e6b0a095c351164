"""GGUF files of models for chat whose texts begin with a token, and the engine in long conversations and at its end."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer
from typer.testing import CliRunner

from lissom import cli
from lissom.errors import InputError
from lissom.gguf.checks import check_system, check_templates, check_tokens
from lissom.gguf.config import GgufParams
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.folder import model_name
from lissom.gguf.running import find, reply
from lissom.models.new import learn_tokenizer
from tests.unit.test_gguf import TEXTS, model_of
from tests.unit.test_gguf_base import TEMPLATE
from tests.unit.test_ollama import chat_model

SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
FORMS = {
    "Llama 2": (
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]}, None,
    ),
    "Gemma": (
        SPACES, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    ),
}  # fmt: skip
"""Normalizer and pre-tokenizer of tokenizers with byte fallback."""


def tokenizer_of(form: str) -> Tokenizer:
    """Return a small tokenizer that adds a token, `</s>`, before every text."""
    values = json.loads(learn_tokenizer([*TEXTS, "two  spaces, 1234.5 and don't"] * 3, 400, ends=True).to_str())
    first, text = {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    values["post_processor"] = {
        "type": "TemplateProcessing", "single": [first, text], "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    }  # fmt: skip
    values["normalizer"], values["pre_tokenizer"] = FORMS[form]
    tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    return tokenizer


def written(tokenizer: Tokenizer, folder: Path) -> Path:
    model = model_of(
        "llama", vocab_size=tokenizer.get_vocab_size() + 1, pad_token_id=0, bos_token_id=1, eos_token_id=1
    )  # fmt: skip
    model.tokenizer = tokenizer
    write_gguf(gguf_model(model), folder / "model.gguf", FILE_TYPES["f32"])
    return folder / "model.gguf"


@pytest.mark.parametrize("form", FORMS)
def test_llama_cpp_reads_texts_with_byte_fallback_as_the_tokenizer_does(form, tmp_path):
    tokenizer = tokenizer_of(form)
    path = written(tokenizer, tmp_path)
    texts = [*TEXTS, "  two  spaces\n\nlines\t tabs", " lead", "1234.5 don't", "é中🙂 x", "", "a<|im_end|>\nb"]
    check_tokens(path, tokenizer, texts)
    with pytest.raises(InputError, match=r"llama\.cpp's tokens of a text differ"):
        check_tokens(path, tokenizer_of(next(name for name in FORMS if name != form)), texts)


def test_a_template_may_begin_with_the_token_that_begins_texts(tmp_path):
    """As those of Llama 3, Mistral and Gemma, from which llama.cpp takes it, since it adds it itself."""
    tokenizer = tokenizer_of("Llama 2")
    model = model_of(
        "llama", vocab_size=tokenizer.get_vocab_size() + 1, pad_token_id=0, bos_token_id=1, eos_token_id=1
    )  # fmt: skip
    task = model.manifest.task.model_copy(
        update={"chat_template": "{{ bos_token }}" + TEMPLATE, "chat_tokens": {"bos_token": "</s>"}}
    )
    model.tokenizer, model.manifest = tokenizer, model.manifest.model_copy(update={"task": task})
    write_gguf(gguf_model(model), tmp_path / "model.gguf", FILE_TYPES["f32"])
    assert check_templates(tmp_path / "model.gguf", task) == 3
    other = task.model_copy(update={"chat_template": "{{ bos_token }} " + TEMPLATE})
    with pytest.raises(InputError, match=r"llama\.cpp makes of a conversation"):
        check_templates(tmp_path / "model.gguf", other)


def test_what_a_modelfile_could_not_say_is_refused():
    task = chat_model().manifest.task
    refusing = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
    )
    check_system(task, "Be brief.")
    with pytest.raises(InputError, match=r"export\.gguf\.system: .* refuses a system prompt .*no system"):
        check_system(task.model_copy(update={"chat_template": refusing}), "Be brief.")
    for name in ("system", "license"):
        with pytest.raises(ValidationError, match="cannot hold a text with"):
            GgufParams.model_validate({name: 'a """ b'})


@pytest.mark.parametrize(
    ("task", "name"), [("My Chats", "my-chats"), ("データ", "model"), ("-x", "x"), (".hidden", "hidden")]
)
def test_names_that_ollama_takes(task, name):
    assert model_name(task, GgufParams()) == name


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder for Ollama with a context of 64 tokens."""
    folder = tmp_path_factory.mktemp("served")
    write_gguf(gguf_model(chat_model()), folder / "model.gguf", FILE_TYPES["f32"])
    (folder / "Modelfile").write_text("FROM ./model.gguf\nPARAMETER num_ctx 64\nPARAMETER num_predict 2\n")
    return folder


def test_the_oldest_messages_of_a_long_conversation_are_forgotten(served):
    server = find(str(served)).start(threads=1)
    said = [
        {"role": role, "content": "the film was good " * 5}
        for _ in range(3)
        for role in ("user", "assistant")
    ]  # fmt: skip
    messages = [*said, {"role": "user", "content": "bad"}]
    try:
        list(reply(server, messages))
        assert 1 <= len(messages) < 7 and messages[-1]["content"] == "bad" and messages[0]["role"] == "user"
        with pytest.raises(InputError, match="context size"):
            list(reply(server, [{"role": "user", "content": "the film was good " * 50}]))
    finally:
        server.close()


def test_an_engine_that_ends_by_itself_ends_the_command(served):
    command = [
        sys.executable,
        "-c",
        "from lissom.cli import main; main()",
        "serve",
        "--model",
        str(served),
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("model.gguf: http://")
        (engine,) = psutil.Process(process.pid).children()
        engine.kill()
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1 and "server ended by itself" in error


def test_a_damaged_file_is_told(tmp_path):
    for content in (b"GGUF", b"no model", b"GGUF\x03\0\0\0" + b"\xff" * 64):
        (tmp_path / "model.gguf").write_bytes(content)
        result = CliRunner().invoke(cli.app, ["chat", "hello", "--model", str(tmp_path / "model.gguf")])
        assert isinstance(result.exception, InputError) and "damaged, or no GGUF file" in str(result.exception)
