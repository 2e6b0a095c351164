"""Texts that are made up, and students that learn the language first."""

import pytest
import torch
from transformers import AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM

from lissom.data.tables import Row, write_table
from lissom.distill.language import IGNORED, language_loss, mask_tokens
from lissom.distill.material import Material
from lissom.distill.offline_config import (
    LanguageModelParams,
    WordAugmentationParams,
)
from lissom.distill.run import distill
from lissom.distill.words import english_tagger, more_texts
from lissom.errors import InputError
from lissom.models.students import take_blocks
from tests.unit import tiny
from tests.unit.distill.recipes import FAST, SHORT, params_of


def test_words_are_changed_as_often_as_asked(tmp_path):
    letters = [f"{a}{b}" for a in tiny.LETTERS for b in tiny.LETTERS[:4]]
    rows = [Row(" ".join(letters[(i + k) % 104] for k in range(40)), None, "good") for i in range(60)]
    table = write_table(tmp_path / "t.arrow", rows)
    params = WordAugmentationParams(copies=5, ngram_probability=0.0)

    def kinds(words: list[str]) -> list[str]:
        return ["N" if word < "m" else "V" for word in words]

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    new = [text for text, _ in more_texts(params, table, "[MASK]", tmp_path / "a", kinds).texts()]
    again = [text for text, _ in more_texts(params, table, "[MASK]", tmp_path / "b", kinds).texts()]
    assert new == again and len(new) == 300
    total, masked, replaced = 0, 0, 0
    for number, text in enumerate(new):
        old = rows[number % 60].text.split()
        for before, after in zip(old, text.split(), strict=True):
            total += 1
            masked += after == "[MASK]"
            replaced += after not in ("[MASK]", before)
            assert after == "[MASK]" or (before < "m") == (after < "m")
    deviation = (0.1 * 0.9 / total) ** 0.5
    assert abs(masked / total - 0.1) < 3 * deviation
    assert abs(replaced / total - 0.1 * 51 / 52) < 3.5 * deviation  # now and then a word is drawn for itself
    cut_params = WordAugmentationParams(copies=1, mask_probability=0, replace_probability=0, ngram_probability=1.0)
    for text, _ in more_texts(cut_params, table, "[MASK]", tmp_path, kinds).texts():
        assert 1 <= len(text.split()) <= 5 and any(text in row.text for row in rows)


def test_english_words_have_their_kinds():
    assert english_tagger(["the", "film", "was", "good"]) == ["DT", "NN", "VBD", "JJ"]


def masked_language_model():
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(tiny.CONFIGS["bert"]()).eval()


def test_tokens_are_masked_as_bert_masks_them():
    torch.manual_seed(0)
    batch = tiny.batch("bert", size=4000, length=12)
    special, mask = torch.tensor([0, 1, 2, 3]), 3
    changed, targets = mask_tokens(batch, mask, special, tiny.SIZE, 0.15)
    real = batch.mask.bool() & (batch.ids > 3)
    chosen = targets != IGNORED
    assert not (chosen & ~real).any() and torch.equal(changed.ids[~chosen], batch.ids[~chosen])
    assert torch.equal(targets[chosen], batch.ids[chosen])
    assert abs(float(chosen.sum() / real.sum()) - 0.15) < 0.01
    kept = (changed.ids == batch.ids)[chosen].float().mean()
    masked = (changed.ids == mask)[chosen].float().mean()
    assert abs(float(masked) - 0.8) < 0.02 and abs(float(kept) - 0.1) < 0.02


def with_mask_token(model):
    model.tokenizer_config["mask_token"] = "[UNK]"
    return model


def test_pretraining_learns_the_language_and_moves_the_trunk(material):
    model = with_mask_token(take_blocks(material.teacher, None))
    language = Material(**(vars(material) | {"teacher": model, "language_model": masked_language_model}))
    changes = {"pretraining": {"training": SHORT | {"epochs": 2}}, "blocks": [0, 2], "training": FAST}
    result = distill(params_of("distilbert", **changes), language)
    losses = [record["loss"] for record in result.trainings["pretraining"].records]
    assert losses[-1] < losses[0]
    assert tiny.scorer(result.model, language.encode(result.model, "dev"))() > 0.9
    with pytest.raises(InputError, match="none was given"):
        distill(params_of("distilbert", **changes), material)
    bare = Material(**(vars(material) | {"language_model": masked_language_model}))
    bare.teacher.tokenizer_config.pop("mask_token", None)
    with pytest.raises(InputError, match="no mask token"):
        distill(params_of("distilbert", **changes), bare)


def test_a_batch_without_anything_to_predict_teaches_nothing():
    """Of few short texts now and then no token is masked."""
    model, network = with_mask_token(tiny.model("bert")), masked_language_model()
    params = LanguageModelParams(kl_weight=0.0, cosine_weight=0.0, mask_probability=1e-9)
    loss = language_loss(network, model, params)(network, tiny.batch("bert"))
    loss.backward()
    assert float(loss.detach()) == 0 and all(
        bool((item.grad == 0).all()) for item in network.parameters() if item.grad is not None
    )


def test_language_losses_vanish_for_the_teacher_itself_and_ignore_padding():
    model, batch = with_mask_token(tiny.model("bert")), tiny.batch("bert", size=16)
    network = masked_language_model()
    params = LanguageModelParams(language_weight=0.0)
    with torch.no_grad():
        assert float(language_loss(network, model, params)(network, batch)) == pytest.approx(0, abs=1e-5)
    config = LlamaConfig(**{**tiny.CONFIGS["llama"]().to_dict(), "num_hidden_layers": 2})
    causal = LlamaForCausalLM(config).eval()
    llama = tiny.model("llama")
    only_words = LanguageModelParams(kl_weight=0.0, cosine_weight=0.0, language_weight=1.0)
    with torch.no_grad():
        loss = float(language_loss(causal, llama, only_words)(causal, batch))
        logits = causal(input_ids=batch.ids, attention_mask=batch.mask).logits
        targets = batch.ids[:, 1:].masked_fill(~batch.mask[:, 1:].bool(), -100)
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
    assert loss == pytest.approx(float(expected), rel=1e-5)
