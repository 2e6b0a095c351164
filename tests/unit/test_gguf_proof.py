"""The proof of a GGUF file: what is compared with torch, and what makes it fail."""

import json

import gguf
import pytest
import torch

from lissom.errors import InputError
from lissom.gguf import file
from lissom.gguf.answers import compare_answers, torch_answer
from lissom.gguf.checks import check_templates, check_tokens
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.ollama import write_ollama
from lissom.gguf.proof import Window, compare, torch_windows
from tests.unit.test_gguf_base import TEMPLATE
from tests.unit.test_ollama import PARAMS, chat_model, texts_of


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


def test_a_users_own_prompts_are_answered(tmp_path):
    """As messages that are to be answered; one without room for an answer is refused."""
    model = chat_model()
    data, texts = texts_of(model, tmp_path)
    wanted = ("good", "bad")
    own = PARAMS.model_copy(update={"types": ("f16", "q2_k"), "max_kl_divergence": {"q2_k": 9}, "prompts": wanted})
    (tmp_path / "ollama").mkdir()
    card = write_ollama(model, tmp_path / "ollama", data, data, texts, own)
    assert [file.answers.prompts for file in card.files] == [2, 2] and card.files[0].answers.equal == 1
    shown = {change.prompt for change in card.files[1].answers.changed}
    assert shown and all(prompt.startswith("user: ") for prompt in shown)
    long = own.model_copy(update={"prompts": ("good " * 60,)})
    (tmp_path / "long").mkdir()
    with pytest.raises(InputError, match=r"prompts: 'good .* leave room for an answer of 16"):
        write_ollama(model, tmp_path / "long", data, data, texts, long)


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
