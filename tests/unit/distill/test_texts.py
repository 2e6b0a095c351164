"""Texts that are made up, and students that learn the language first."""

import numpy as np
import pytest
import torch
from tokenizers import decoders
from transformers import AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lissom.data.batches import Members, collate
from lissom.data.tables import Row, write_table
from lissom.distill.augment import candidates, whole_word
from lissom.distill.augment import more_texts as masked_lm_texts
from lissom.distill.augment_config import AugmentationParams, WordAugmentationParams
from lissom.distill.blockless_config import LstmDistillation
from lissom.distill.language import IGNORED, Masking, language_loss, mask_tokens, next_tokens, token_draws
from lissom.distill.lstm import make_student, pieces_of
from lissom.distill.material import Material
from lissom.distill.offline_config import LanguageModelParams
from lissom.distill.run import distill
from lissom.distill.words import english_tagger, more_texts
from lissom.errors import InputError
from lissom.models.students import take_blocks
from tests.unit import tiny
from tests.unit.distill.recipes import FAST, METHODS, SHORT, params_of, tables_in
from tests.unit.test_loop import examples


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
    draws = token_draws(0, 0, batch.indices.numpy(), batch.ids.shape[1])
    changed, targets = mask_tokens(batch, mask, special, tiny.SIZE, 0.15, draws)
    real = batch.mask.bool() & (batch.ids > 3)
    chosen = targets != IGNORED
    assert not (chosen & ~real).any() and torch.equal(changed.ids[~chosen], batch.ids[~chosen])
    assert torch.equal(targets[chosen], batch.ids[chosen])
    assert abs(float(chosen.sum() / real.sum()) - 0.15) < 0.01
    kept = (changed.ids == batch.ids)[chosen].float().mean()
    masked = (changed.ids == mask)[chosen].float().mean()
    assert abs(float(masked) - 0.8) < 0.02 and abs(float(kept) - 0.1) < 0.02


def test_masks_are_a_function_of_step_and_example_and_are_counted():
    """However a batch is split and padded, and another in every step."""
    data, model = examples(20), with_mask_token(tiny.model("bert"))
    network, params = masked_language_model(), LanguageModelParams(mask_probability=0.4)
    masking = Masking(model, network, data, params)
    members = np.arange(20)
    batch = collate(data, members, 0)
    drawn = []
    for step in (0, 1, 0):
        masking.before_step(step, 9)
        changed, targets = masking(batch)
        for row in range(20):
            alone = collate(data, members[[row]], 0)
            own, own_targets = masking(alone)
            length = alone.ids.shape[1]
            assert torch.equal(own.ids[0], changed.ids[row, :length])
            assert torch.equal(own_targets[0], targets[row, :length])
            assert masking.count(Members(members[[row]], data.lengths[[row]])) == int((own_targets != IGNORED).sum())
        assert masking.count(Members(members, data.lengths)) == int((targets != IGNORED).sum()) > 20
        drawn.append(targets)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert next_tokens(Members(members, data.lengths)) == data.lengths.sum() - 20


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
    masking = Masking(model, network, examples(6), params)
    loss = language_loss(network, masking, params)(network, tiny.batch("bert"))
    loss.backward()
    assert float(loss.detach()) == 0 and all(
        bool((item.grad == 0).all()) for item in network.parameters() if item.grad is not None
    )


def test_language_losses_vanish_for_the_teacher_itself_and_ignore_padding():
    model, batch = with_mask_token(tiny.model("bert")), tiny.batch("bert", size=16)
    network = masked_language_model()
    params = LanguageModelParams(language_weight=0.0)
    with torch.no_grad():
        masking = Masking(model, network, examples(16), params)
        assert float(language_loss(network, masking, params)(network, batch)) == pytest.approx(0, abs=1e-5)
    config = LlamaConfig(**{**tiny.CONFIGS["llama"]().to_dict(), "num_hidden_layers": 2})
    causal = LlamaForCausalLM(config).eval()
    only_words = LanguageModelParams(kl_weight=0.0, cosine_weight=0.0, language_weight=1.0)
    with torch.no_grad():
        loss = float(language_loss(causal, None, only_words)(causal, batch))
        logits = causal(input_ids=batch.ids, attention_mask=batch.mask).logits
        targets = batch.ids[:, 1:].masked_fill(~batch.mask[:, 1:].bool(), -100)
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_a_teacher_without_a_mask_token_is_told_before_anything_is_built(material):
    params = params_of("lstm", augmentation={"mask_probability": 0.2})
    with pytest.raises(
        InputError, match=r"mask_probability: 0\.2 given, and the teacher's tokenizer has no mask token"
    ):
        distill(params, Material(**(vars(material) | {"tables": {}})))


def byte_level_teacher():
    """A RoBERTa with a byte-level tokenizer, whose words start with a space of their own."""
    model = tiny.model("roberta")
    model.tokenizer = tiny.byte_level_tokenizer()
    model.tokenizer_config = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    model.network.resize_token_embeddings(model.tokenizer.get_vocab_size())
    return model


def test_an_lstm_reads_its_teachers_mask_token(tmp_path):
    teacher, tables = byte_level_teacher(), tables_in(tmp_path)
    material = Material(teacher=teacher, tables=tables, scratch=tmp_path)
    params = params_of("lstm", augmentation={"mask_probability": 0.5, "ngram_probability": 0})
    student = make_student(params, material)
    (tmp_path / "more").mkdir()
    masked = [text for text, _ in more_texts(params.augmentation, tables["train"], "<mask>", tmp_path / "more").texts()]
    for model in (teacher, student):
        number = model.tokenizer.token_to_id("<mask>")
        for text in masked[:50]:
            assert model.tokenizer.encode(text).ids.count(number) == text.split().count("<mask>")
    seen = []
    teacher.network.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True)
    short = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 0.1})})
    distill(short, material)
    assert any(bool((ids == teacher.tokenizer.token_to_id("<mask>")).any()) for ids in seen)


def test_words_of_an_lstm_have_the_vectors_that_its_teacher_reads_in_texts(tmp_path):
    """Within a text a byte-level word is another token than at its start."""
    teacher = byte_level_teacher()
    assert pieces_of("good", teacher.tokenizer) == [teacher.tokenizer.token_to_id("\u0120good")]
    assert pieces_of("good", tiny.tokenizer()) == [tiny.VOCABULARY.index("good")]
    material = Material(teacher=teacher, tables=tables_in(tmp_path), scratch=tmp_path)
    params = LstmDistillation(**({"method": "lstm"} | METHODS["lstm"] | {"embedding_size": 40}))
    student = make_student(params, material)
    vectors = student.network.embeddings.word_embeddings.weight[:, :32]
    table = teacher.network.roberta.embeddings.word_embeddings.weight
    pairs = {"good": "\u0120good", "film": "\u0120film", "[UNK]": "<unk>", "<mask>": "<mask>"}
    for own, other in pairs.items():
        assert torch.equal(vectors[student.tokenizer.token_to_id(own)], table[teacher.tokenizer.token_to_id(other)])


@pytest.mark.parametrize("byte_level", [False, True])
def test_texts_are_made_of_whole_words(byte_level, tmp_path):
    """Whatever a tokenizer marks the start of a word with is not written into texts."""
    torch.manual_seed(0)
    if byte_level:
        backend, names = tiny.byte_level_tokenizer(), {"pad_token": "<pad>", "mask_token": "<mask>"}
    else:
        backend, names = tiny.tokenizer(), {"pad_token": "[PAD]", "mask_token": "[MASK]"}
        backend.add_special_tokens(["[MASK]"])
        backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    config = tiny.CONFIGS["roberta" if byte_level else "bert"]()
    config.vocab_size = len(tokenizer)
    model = AutoModelForMaskedLM.from_config(config).eval()
    words = ["film", "the", "good", "plot"]
    found = candidates(words, model, tokenizer, 5)
    assert found[1] == ["the"] and all(len(found[place]) > 1 for place in (0, 2, 3))
    tokens = backend.get_vocab()
    whole = {token[1:] for token in tokens if token[0] == "\u0120"} if byte_level else {*tiny.WORDS, *tiny.LETTERS}
    assert {word for place in (0, 2, 3) for word in found[place]} <= whole
    starts, continues = ("\u0120good", "good") if byte_level else ("good", "##a")
    assert whole_word(tokenizer.convert_tokens_to_ids(starts), tokenizer) == "good"
    assert whole_word(tokenizer.convert_tokens_to_ids(continues), tokenizer) is None
    assert whole_word(tokenizer.mask_token_id, tokenizer) is None


def test_words_are_not_asked_of_a_model_that_reads_one_side(tmp_path):
    LlamaForCausalLM(tiny.CONFIGS["llama"]()).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), mask_token="[UNK]").save_pretrained(tmp_path)
    params = AugmentationParams(masked_lm=f"dir:{tmp_path}")
    with pytest.raises(InputError, match=r"a llama predicts the next token"):
        masked_lm_texts(params, tables_in(tmp_path / "tables")["train"], tmp_path)
