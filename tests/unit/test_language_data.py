"""Texts and conversations for language models: from files and from Python itself, and what is refused."""

import json

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import lissom
from lissom.data.batches import collate
from lissom.data.cleaning import Cleaner
from lissom.data.config import DataParams
from lissom.data.prepare import load_table, prepare
from lissom.data.tables import CONVERSATION, Row, write_table
from lissom.errors import DataError, InputError, ParamsError
from lissom.factorize.config import WordTableFactorization
from lissom.models.base import load_base
from lissom.models.config import BaseParams
from lissom.models.generation import end_ids
from lissom.params import check_params
from lissom.tasks.chat import check_conversations, render
from lissom.tasks.kinds import task_of
from lissom.training.config import TrainingParams
from lissom.training.loop import fit
from lissom.training.predicting import score
from tests.unit import tiny
from tests.unit.test_language_modeling import TASK, model_of


def prepared(tmp_path, **more):
    (tmp_path / "out").mkdir()
    return prepare(DataParams(task="language_modeling", **more), tmp_path / "out"), tmp_path / "out"


def test_the_language_reference_of_python_is_embedded(tmp_path):
    card, folder = prepared(tmp_path, source="embedded:python-reference")
    counts = {split: len(load_table(folder, split)) for split in ("train", "dev", "test")}
    assert sum(counts.values()) > 50 and counts["test"] >= 5 and card.labels == () and card.label_counts == {}
    seen = [text for split in counts for text, _ in load_table(folder, split).texts()]
    assert len(set(seen)) == len(seen) and sum(map(len, seen)) > 200_000
    assert task_of(card, 128).kind == "language_modeling"


def test_plain_files_are_one_text_each(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "dev", "test"):
        (tmp_path / "data" / f"{split}.txt").write_text(f"{split} first line\n\nsecond line\n")
    _, folder = prepared(tmp_path, source=f"files:{tmp_path / 'data'}")
    assert [text for text, _ in load_table(folder, "test").texts()] == ["test first line\n\nsecond line\n"]
    with pytest.raises(ValueError, match="plain text has no column 'label'"):
        prepare(DataParams(source=f"files:{tmp_path / 'data'}"), tmp_path)


def test_one_text_cannot_be_held_out_from(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / f"{split}.txt").write_text("one long text")
    with pytest.raises(ValueError, match="train is one text"):
        prepared(tmp_path, source=f"files:{tmp_path / 'data'}")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"distill": {"method": "static"}}, "distill.method: static is not made for"),
        ({"distill": {"method": "logits", "blocks": [0]}}, "distill.training.loss.temperature.*set each to 1"),
        (
            {"factorize": {"method": "word_table", "min_count": 2, "training": None}},
            "factorize.min_count above 1 divides",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(section, message):
    data = {"source": "embedded:python-reference", "task": "language_modeling"}
    with pytest.raises(ParamsError, match=message):
        check_params({"base": {"model": "dir:b"}, "data": data, **section})


def test_an_encoder_is_refused(tmp_path):
    model = tiny.model("bert")
    model.network.save_pretrained(tmp_path)

    PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), pad_token="[PAD]").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not pre-trained to predict the next token"):
        load_base(BaseParams(model=f"dir:{tmp_path}", max_length=12), TASK, 0)


def test_a_rank_alone_factorises():
    assert WordTableFactorization(method="word_table", min_count=None, rank=8).rank == 8


TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} [SEP]{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = TASK.model_copy(update={"chat_template": TEMPLATE, "max_length": 64})


def chat_table(folder, *conversations):
    rows = [
        Row(json.dumps([{"role": role, "content": content} for role, content in messages]), None, CONVERSATION)
        for messages in conversations
    ]
    return write_table(folder / "chat.arrow", rows)


def test_only_what_the_assistant_says_is_predicted(tmp_path):
    tokenizer = tiny.tokenizer()
    talk = [("user", "the film"), ("assistant", "good plot"), ("user", "very bad"), ("assistant", "not fine")]
    table = chat_table(tmp_path, talk, [("user", "story"), ("assistant", "dull")], [("user", "nobody answers")])
    data = CHAT.encode([table], tokenizer, tmp_path / "tokens")
    assert len(data) == 2 and CHAT.count_rows([table], tokenizer) == len(data.targets)
    words = [tokenizer.id_to_token(token) for token in data.targets[:, 0]]
    assert words == ["good", "plot", "[SEP]", "not", "fine", "[SEP]", "dull", "[SEP]"]
    batch = collate(data, np.asarray([1, 0]), 0)
    outputs = torch.nn.functional.one_hot(batch.ids.roll(-1, 1), tiny.SIZE).float() * 50
    assert float(CHAT.loss(batch.outputs_of(outputs), batch.targets)) == pytest.approx(0, abs=1e-6)


THINKING = (
    "{% set last = namespace(user=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.index0 > last.user %}"
    "<think></think>{% endif %}{{ m.content.split('</think>')[-1] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""As Qwen3's: thoughts are written in the last turn alone."""
OPENED = "{{ bos_token }}" + TEMPLATE.replace("%}<assistant>{%", "%}<assistant><think>{%")
"""As DeepSeek R1's: a reply begins with a thought that earlier turns do not have."""
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}[SEP]"
    "{% endgeneration %}{% else %}{{ m.content }}[SEP]{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        (THINKING, ["Yes<end>", "<think></think>Four<end>"]),
        (OPENED, [" <think>why</think>Yes [SEP]", " Four [SEP]"]),
        (MARKED, ["<think>why</think>Yes[SEP]", "Four[SEP]"]),
    ],
    ids=["thoughts of the last turn", "a reply begins with a thought", "marked"],
)
def test_answers_are_found_in_templates_that_write_earlier_turns_otherwise(template, parts):
    """And never what the user says, though it is the same word."""
    messages = [("user", "Yes"), ("assistant", "<think>why</think>Yes"), ("user", "2 + 2?"), ("assistant", "Four")]
    text = json.dumps([{"role": role, "content": content} for role, content in messages])
    whole, spans = render(text, template, {"bos_token": "<s>"})
    assert [whole[start:end] for start, end in spans] == parts
    assert all(whole[:start].endswith("<assistant>") for start, _ in spans)


@pytest.mark.parametrize("answer", ["d", "e", "end", ">", "<"])
def test_answers_that_are_a_part_of_the_marks_around_them(answer):
    messages = [("user", "a or b?"), ("assistant", answer), ("user", "and?"), ("assistant", "<div>")]
    text = json.dumps([{"role": role, "content": content} for role, content in messages])
    whole, spans = render(text, THINKING, {})
    assert [whole[start:end] for start, end in spans] == [f"{answer}<end>", "<think></think><div><end>"]
    whole, spans = render(text, TEMPLATE.replace("%}<assistant>{%", "%}<assistant> <think>{%"), {})
    assert [whole[start:end].strip() for start, end in spans] == [f"{answer} [SEP]", "<div> [SEP]"]


def test_what_an_assistant_says_first_is_no_answer():
    text = json.dumps([{"role": role, "content": role} for role in ("assistant", "user", "assistant")])
    whole, spans = render(text, TEMPLATE, {})
    assert [whole[start:end] for start, end in spans] == [" assistant [SEP]"]


def test_conversations_that_a_template_refuses_are_told_with_their_number(tmp_path):
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
        "<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    good, bad = [("user", "a"), ("assistant", "b")], [("system", "s"), ("user", "a"), ("assistant", "b")]
    (tmp_path / "test").mkdir()
    tables = {"train": chat_table(tmp_path, good), "test": chat_table(tmp_path / "test", good, bad, bad)}
    with pytest.raises(DataError, match=r"test: 2 of 3 conversations cannot be used; number 2: .*no system"):
        check_conversations(tables, template, {})


def test_the_template_is_that_of_the_model_and_hostile_ones_are_told(tmp_path):
    model = model_of("llama")
    model.network.save_pretrained(tmp_path / "base")
    fast = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), pad_token="[PAD]", eos_token="[SEP]")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(tmp_path / "base")
    loaded = load_base(BaseParams(model=f"dir:{tmp_path / 'base'}", max_length=12), TASK, 0)
    assert loaded.manifest.task.chat_template == TEMPLATE and loaded.manifest.task.chat_tokens["eos_token"] == "[SEP]"
    lissom.save(loaded, tmp_path / "saved")
    again = load_base(BaseParams(model=f"dir:{tmp_path / 'saved'}", max_length=12), TASK, 0)
    assert again.manifest.task.chat_template == TEMPLATE
    table = chat_table(tmp_path, [("user", "a"), ("assistant", "b")])
    templates = {
        "has no chat_template": None,
        "fails on a conversation": "{{ ''.__class__.__mro__[1].__subclasses__()[0]() }}",
        "cannot be found in the text": "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }
    for message, template in templates.items():
        task = CHAT.model_copy(update={"chat_template": template})
        with pytest.raises(DataError, match=message):
            task.encode([table], tiny.tokenizer(), tmp_path / message.replace(" ", "-"))


def test_messages_are_read_from_files(tmp_path):
    (tmp_path / "data").mkdir()
    good = {"messages": [{"role": "user", "content": "the film"}, {"role": "assistant", "content": "good"}]}
    for split in ("train", "dev", "test"):
        (tmp_path / "data" / f"{split}.jsonl").write_text(json.dumps(good) + "\n")
    _, folder = prepared(tmp_path, source=f"files:{tmp_path / 'data'}", text="messages")
    (row,) = load_table(folder, "test").rows()
    assert json.loads(row.text) == good["messages"] and row.label == CONVERSATION
    (tmp_path / "data" / "test.jsonl").write_text('{"messages": [{"role": "user"}]}\n')
    with pytest.raises(DataError, match="is no message; it needs the texts `role` and `content`"):
        prepare(DataParams(task="language_modeling", source=f"files:{tmp_path / 'data'}", text="messages"), folder)


def test_conversations_without_an_answer_in_words_are_left_out_and_counted():
    cleaner = Cleaner(DataParams(task="language_modeling", source="files:x", text="messages"), labelled=False)
    user = {"role": "user", "content": [{"type": "text", "text": "good "}, {"type": "text", "text": "film"}]}
    answer = {"role": "assistant", "content": "yes"}
    image = {"role": "user", "content": [{"type": "image"}]}
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    conversations = [
        [user, answer], [user, {"role": "model", "content": "yes"}], [answer, user], [image, answer],
        [user, call, {"role": "tool", "content": "1"}, answer],
        [user, {"role": "assistant", "content": None, "function_call": {}}, {"role": "function", "content": "1"}, answer],
    ]  # fmt: skip
    rows = [cleaner.row({"messages": messages}, "line 1") for messages in conversations]
    assert [row is not None for row in rows] == [True, False, False, False, False, False]
    assert json.loads(rows[0].text)[0]["content"] == "good film"
    assert cleaner.notes("train") == [
        "train: 3 conversations with tools, or with parts that are no text, are left out",
        "train: 2 conversations in which no message of role `assistant` answers are left out; roles: assistant, model, "
        "user",
    ]


def test_no_training_begins_and_no_score_is_given_without_an_example(tmp_path):
    model = model_of("llama")
    data = TASK.encode([write_table(tmp_path / "t.arrow", [])], model.tokenizer, tmp_path / "x")
    assert len(data) == 0
    with pytest.raises(DataError, match="no example to train on"):
        fit(model.network, data, 0, tiny.LOSS, TrainingParams(epochs=1))
    with pytest.raises(DataError, match="no examples to score"):
        score(model.network, data, 0, TASK)


def test_all_tokens_that_end_a_text_are_the_models(tmp_path):
    """Also those that only the settings of writing name, and a default among several templates."""
    model, told = model_of("llama"), []
    model.network.generation_config.eos_token_id = [2, 5]
    model.network.config.eos_token_id = 2
    model.network.save_pretrained(tmp_path)
    fast = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), pad_token="[PAD]", eos_token="[SEP]")
    fast.chat_template = {"default": TEMPLATE, "tool_use": "x"}
    fast.save_pretrained(tmp_path)
    loaded = load_base(BaseParams(model=f"dir:{tmp_path}", max_length=12), TASK, 0, told.append)
    assert end_ids(loaded.network) == [2, 5] == loaded.manifest.base_config["eos_token_id"]
    assert not any("eos_token_id" in line for line in told)
    assert loaded.manifest.task.chat_template == TEMPLATE


def test_batches_are_smaller_where_answers_are_large(tmp_path, monkeypatch):
    """And the score is the same."""
    model = model_of("llama")
    rows = [Row(" ".join(["good", "film"] * count), None, None) for count in range(1, 6)]
    data = TASK.encode([write_table(tmp_path / "texts.arrow", rows)], model.tokenizer, tmp_path / "tokens")
    expected, sizes = score(model.network, data, 0, TASK), []
    vocabulary = model.network.config.vocab_size
    monkeypatch.setattr("lissom.data.batches._MOST_OUTPUTS", 2 * int(data.lengths.max()) * vocabulary)
    model.network.register_forward_hook(lambda _, __, output: sizes.append(len(output.logits)))
    assert score(model.network, data, 0, TASK) == pytest.approx(expected, rel=1e-5) and max(sizes) == 2
