"""What a downloaded model says of itself is checked when it is loaded."""

import json
import os

import pytest
import torch
from tokenizers import Tokenizer, normalizers
from transformers import (
    BartConfig,
    BertConfig,
    BertTokenizer,
    ElectraConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)  # fmt: skip

import lissom
from lissom.errors import InputError
from lissom.models.base import load_base
from lissom.models.base_tokenizer import read_tokenizers
from lissom.models.compressed import logits_of
from lissom.models.config import BaseParams
from lissom.models.patterned import has_patterns
from lissom.models.tensor_file import write_tensors
from lissom.tasks.classification import Classification
from lissom.tasks.token_classification import TokenClassification
from tests.unit import tiny

MAX_LENGTH = 16


def save(folder, family="bert", tokenizer=None, names=None):
    """Write a model of transformers' own, with a trained head of three labels."""
    network = tiny.CONFIGS[family]()
    if names:
        network.id2label, network.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    torch.manual_seed(3)
    model = tiny.TASK.auto_class.from_config(network)
    model.save_pretrained(folder)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer or tiny.tokenizer(), **special).save_pretrained(folder)
    return model


def load(folder, task=tiny.TASK, max_length=MAX_LENGTH, tell=lambda _: None):
    return load_base(BaseParams(model=f"dir:{folder}", max_length=max_length), task, seed=0, tell=tell)


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
@pytest.mark.parametrize("labels", [("bad", "good", "so-so"), ("so-so", "bad", "good")])
def test_the_heads_rows_follow_the_names_of_the_labels(family, labels, tmp_path):
    names, told = ("good", "so-so", "bad"), []
    original = save(tmp_path, family, names=names)
    task = Classification(name="tiny", labels=labels, pair=False, max_length=MAX_LENGTH)
    model = load(tmp_path, task, tell=told.append)
    inputs = {"input_ids": torch.tensor([[1, 9, 60, 2]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        before, after = original.eval()(**inputs).logits[0], model.network(**inputs).logits[0]
    expected = torch.stack([before[names.index(label)] for label in labels])
    torch.testing.assert_close(after, expected)
    assert len(told) == 1 and "put into the order" in told[0]


def test_a_head_for_other_labels_is_made_anew_and_told(tmp_path):
    told = []
    original = save(tmp_path, names=("joy", "anger", "fear"))
    model = load(tmp_path, tell=told.append)
    assert not torch.equal(model.network.classifier.weight, original.classifier.weight)
    assert "joy, anger, fear" in told[0] and "bad, good, so-so" in told[0] and "a new head" in told[0]
    assert torch.equal(load(tmp_path).network.classifier.weight, model.network.classifier.weight)  # seeded


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_an_input_longer_than_the_positions_is_refused(family, tmp_path):
    save(tmp_path, family)
    load(tmp_path, max_length=24)
    with pytest.raises(InputError, match=r"base.max_length is 25, .* has 24 positions"):
        load(tmp_path, max_length=25)


def test_a_token_without_a_row_is_named(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens(["[EXTRA]"])
    save(tmp_path, tokenizer=tokenizer)
    with pytest.raises(
        InputError, match=rf"token '\[EXTRA\]' with id {tiny.SIZE}, the word table has {tiny.SIZE} rows"
    ):
        load(tmp_path)


def test_the_folders_own_tokenizer_rules(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    save(tmp_path, tokenizer=tokenizer)
    for config in (None, {"tokenizer_class": "BertTokenizer", "do_lower_case": True}):
        (tmp_path / "tokenizer_config.json").unlink()
        if config:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        text = "good FILM Ä"
        own = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).tokens
        assert load(tmp_path).tokenizer.encode(text).tokens == own == tokenizer.encode(text).tokens
        (tmp_path / "tokenizer_config.json").touch()


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path, monkeypatch):
    save(tmp_path)
    monkeypatch.setattr(BertTokenizer, "is_fast", property(lambda _: False))
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", property(lambda _: False))
    with pytest.raises(InputError, match="has no fast form"):
        load(tmp_path)


def test_a_family_without_token_classifiers_is_refused_for_them(tmp_path):
    save(tmp_path, "gemma3_text")
    task = TokenClassification(name="words", labels=("O", "B-x"), pair=False, max_length=MAX_LENGTH)
    with pytest.raises(InputError, match=r"gemma3_text \(label words\): transformers has no token classifier of it"):
        load(tmp_path, task)


def test_a_trained_token_classifier_keeps_its_head_in_the_order_of_the_tags(tmp_path):
    names = ("B-x", "O", "I-x")
    tagger = TokenClassification(name="words", labels=("O", "B-x", "I-x"), pair=False, max_length=MAX_LENGTH)
    config = tiny.CONFIGS["bert"]()
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    network = tagger.auto_class.from_config(config)
    network.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), pad_token="[PAD]").save_pretrained(tmp_path)
    notes = []
    weight = load(tmp_path, tagger, tell=notes.append).network.classifier.weight
    assert torch.equal(weight, network.classifier.weight[[1, 0, 2]]) and "order of the data's labels" in notes[0]


def test_a_teacher_as_it_is_needs_a_head_for_the_labels(tmp_path):
    save(tmp_path, names=("bad", "good", "so-so"))
    source = BaseParams(model=f"dir:{tmp_path}", max_length=MAX_LENGTH)
    other = Classification(name="tiny", labels=("x", "y", "z"), pair=False, max_length=MAX_LENGTH)
    assert load_base(source, tiny.TASK, 0, needs_head=True).manifest.task == tiny.TASK
    with pytest.raises(InputError, match=r"teacher.method is none, but the model has no head for the labels x, y, z"):
        load_base(source, other, 0, needs_head=True)


def test_a_base_for_longer_texts(tmp_path):
    """From transformers' files and from lissom's own."""
    long = {"max_length": 60, "longer_positions": "copy", "attention": {"pattern": "fixed_radius", "radius": 4}}
    save(tmp_path / "plain")
    lissom.save(load(tmp_path / "plain"), tmp_path / "own")
    for name in ("plain", "own"):
        model = load_base(BaseParams.model_validate({"model": f"dir:{tmp_path / name}", **long}), tiny.TASK, 0)
        assert [edit.kind for edit in model.manifest.edits] == ["extend_positions", "use_attention"]
        assert has_patterns(model.network) and model.network.config.max_position_embeddings == 60
        with torch.no_grad():
            assert logits_of(model.network, tiny.batch("bert", length=60)).isfinite().all()


@pytest.mark.parametrize(
    "kind", [BertConfig, RobertaConfig, ElectraConfig, GPT2Config, Qwen3Config, T5Config, BartConfig]
)
def test_a_config_alone_makes_no_tokenizer(kind, tmp_path):
    """transformers makes one up, which reads every word as unknown."""
    kind().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="save the tokenizer beside the model, too"):
        read_tokenizers("dir:x", tmp_path, None, kind())


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
def test_a_folder_without_a_tokenizer_is_refused(family, tmp_path):
    save(tmp_path, family)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(
        InputError,
        match=r"save the tokenizer beside the model|needs config\.json, model\.safetensors and tokenizer\.json",
    ):
        load(tmp_path)


def test_code_beside_a_model_is_never_run(tmp_path, monkeypatch):
    """Nor is anybody asked whether it should be."""
    save(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    config = json.loads((tmp_path / "config.json").read_text())
    names = {"AutoConfig": "conf.Conf", "AutoModelForSequenceClassification": "conf.Net"}
    (tmp_path / "conf.py").write_text(f"open({str(tmp_path / 'RUN')!r}, 'w').close()")
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": names}))
    model = load(tmp_path)
    assert "auto_map" not in model.manifest.base_config
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": names, "model_type": "mine"}))
    with pytest.raises(InputError, match="it needs code of its own, which is never run; known families: bart, bert"):
        load(tmp_path)
    assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1"),
        ("model.safetensors", b""),
        ("tokenizer.json", b"{}"),
        ("config.json", b"{"),
    ],
)
def test_a_damaged_folder_is_one_line_that_says_what_to_do(name, content, tmp_path):
    save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"base\.model dir:{tmp_path}: .*copy it again") as error:
        load(tmp_path)
    assert "\n" not in str(error.value) and "Without network" not in str(error.value)


def test_a_config_with_values_that_no_network_has_is_one_line(tmp_path):
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong in ({"hidden_act": "swishy"}, {"num_hidden_layers": "six"}):
        (tmp_path / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(InputError, match=r"cannot be loaded.*copy it again"):
            load(tmp_path)


def test_a_family_that_is_not_known_is_told_with_those_that_are(tmp_path):
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "mine"}))
    with pytest.raises(InputError, match=r"(?s)mine.*known families: bart, bert"):
        load(tmp_path)


def test_a_package_without_the_folder_is_told():
    with pytest.raises(InputError, match="the package transformers has no folder modell"):
        load_base(BaseParams(model="package:transformers/modell", max_length=8), tiny.TASK, seed=0)


def test_others_may_read_what_is_written(tmp_path):
    """Stages run as any user of group 0 in a pod."""
    mask = os.umask(0o022)
    try:
        write_tensors({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
