"""Language models: windows of texts, perplexity, a teacher's cached distribution, files and continuations."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from torch.nn import functional as F

import lissom
from lissom.data.batches import collate
from lissom.data.tables import Row, write_table
from lissom.errors import InputError
from lissom.evaluate.paired import compare_scores
from lissom.export.config import ExportParams
from lissom.export.exported import split_answers
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity
from lissom.models.compressed import logits_of
from lissom.models.edits import FactorizeWordTable, FakeQuantize, KeepBlocks, KeepHeads, KeepNeurons, StoreIntegers
from lissom.quantize.int8 import calibrate
from lissom.serving.answers import NonFiniteOutputError
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.language_modeling import continuations
from lissom.tasks.language_modeling import LanguageModeling
from lissom.tasks.next_token import from_cache, log_rest
from lissom.tasks.perplexity import PerplexityMeter
from tests.unit import tiny

TASK = LanguageModeling(name="texts", pair=False, max_length=12)
DECODERS = [family for family in tiny.able("language") if family in ("gpt2", "llama", "qwen3", "gemma2", "mistral")]
TRAINING = {"epochs": 8, "batch_size": 8, "learning_rate": 5e-3, "freeze_word_table": False, "precision": "float32"}


def text(generator: random.Random, count: int) -> str:
    """Words that alternate between two lists, so that there is something to learn."""
    first, second = tiny.WORDS[:6], tiny.WORDS[6:]
    return " ".join(generator.choice((first, second)[number % 2]) for number in range(count))


def tables_of(folder, sizes=(("train", 60), ("transfer", 0), ("dev", 12), ("test", 12))):
    generator = random.Random(0)
    return {
        name: write_table(
            folder / f"{name}.arrow", [Row(text(generator, generator.randint(2, 40)), None, None) for _ in range(count)]
        )
        for name, count in sizes
    }


def model_of(family: str, seed: int = 0):
    return tiny.model(family, seed, task=TASK)


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=50), min_size=1, max_size=4))
def test_windows_hold_every_token_once_and_the_sizes_add_up(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("windows")
    table, tokenizer = (
        write_table(folder / "t.arrow", [Row(text, None, None) for text in texts]),
        tiny.byte_level_tokenizer(),
    )
    data = TASK.encode([table], tokenizer, folder / "tokens")
    tokenizer.no_truncation()
    whole = [tokenizer.encode(text).ids for text in texts]
    kept = [window for ids in whole for start in range(0, len(ids), 12) if len(window := ids[start : start + 12]) > 1]
    assert [data.tokens[a:b].tolist() for a, b in zip(data.offsets, data.offsets[1:], strict=False)] == kept
    assert len(data.targets) == TASK.count_rows([table], tokenizer) == sum(len(window) - 1 for window in kept)
    assert data.targets[:, 0].tolist() == [token for window in kept for token in window[1:]]
    assert (data.targets[:, 1:] >= 0).all()
    if len(whole) == 1 and len(whole[0]) <= 12:  # one window: all bytes and words but those that its first token ends
        assert data.targets[:, 1].sum() == len(texts[0].encode())
        assert data.targets[:, 2].sum() == len(texts[0].split())


def test_perplexity_is_that_of_the_probabilities_however_it_is_divided():
    generator = np.random.default_rng(0)
    logs, targets = np.log(generator.uniform(0.01, 1, 50)), generator.integers(1, 5, (50, 3))
    answers = np.stack([logs, np.zeros(50)], 1).astype(np.float32)
    whole, parts = PerplexityMeter(), [PerplexityMeter(), PerplexityMeter()]
    for part, rows in zip(parts, (slice(0, 20), slice(20, 50)), strict=True):
        part.add(answers[rows], targets[rows])
        whole.merge(part)
    figures = whole.figures()
    assert figures["perplexity"] == pytest.approx(math.exp(-logs.mean()), rel=1e-6) == whole.result()
    assert figures["word_perplexity"] == pytest.approx(math.exp(-logs.sum() / targets[:, 2].sum()), rel=1e-6)
    assert figures["bits_per_byte"] == pytest.approx(-logs.sum() / math.log(2) / targets[:, 1].sum(), rel=1e-6)


@pytest.mark.parametrize("family", DECODERS)
def test_the_loss_is_that_of_transformers(family, tmp_path):
    """Of whole texts; the same as with labels, which transformers shifts itself."""
    model = model_of(family)
    data = TASK.encode([tables_of(tmp_path)["dev"]], model.tokenizer, tmp_path / "tokens")
    batch = collate(data, np.arange(6), model.pad_id)
    labels = batch.ids.masked_fill(~batch.mask.bool(), -100)
    with torch.no_grad():
        ours = TASK.loss(logits_of(model.network, batch), batch.targets)
        theirs = model.network(input_ids=batch.ids, attention_mask=batch.mask, labels=labels).loss
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_the_rest_of_a_cached_distribution_is_exact():
    """With all tokens but one cached it is the dense loss; with fewer, the loss over the tokens and one class."""
    torch.manual_seed(0)
    teacher, student = torch.randn(5, 30) * 3, (torch.randn(5, 30) * 3).requires_grad_()
    dense = TASK.soft_loss(student, teacher, 1.0).detach()
    assert float(dense) == pytest.approx(
        float(
            F.kl_div(student.detach().log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
        ),
        rel=1e-6,
    )
    for count in (29, 8):
        cached = TASK.remember(teacher, count)
        tokens, log_p = from_cache(cached)
        assert cached.shape == (5, 2 * count + 1) and torch.allclose(log_p.exp().sum(-1), torch.ones(5), atol=1e-5)
        p, q = teacher.softmax(-1), student.detach().softmax(-1)
        rest_p, rest_q = (1 - values.gather(1, tokens).sum(1) for values in (p, q))
        expected = (p * (p / q).log()).gather(1, tokens).sum(1) + rest_p * (rest_p / rest_q).log()
        loss = TASK.soft_loss(student, cached, 1.0).detach()
        assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-4)
        assert float(loss) <= float(dense) + 1e-6
        assert TASK.cache_metrics(cached)["probability_not_cached"] == pytest.approx(float(rest_p.mean()), abs=1e-6)
        if count == 29:
            assert float(loss) == pytest.approx(float(dense), rel=1e-4)
    (gradient,) = torch.autograd.grad(TASK.soft_loss(student, TASK.remember(teacher, 8), 1.0), student)
    assert gradient.isfinite().all()


def test_a_certain_teacher_leaves_no_rest_and_no_infinity():
    certain = torch.full((2, 40), -100.0)
    certain[:, 3] = 100.0
    student = torch.randn(2, 40, requires_grad=True)
    loss = TASK.soft_loss(student, TASK.remember(certain, 4), 1.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert log_rest(torch.tensor([[0.0, -300.0]])).isfinite().all()


EDITS = {
    "blocks": [KeepBlocks(kept=(0, 2, 3))],
    "heads, neurons": [KeepHeads(kept=((0,), (0, 1), (1,), (0,))), KeepNeurons(kept=((1, 2), (0,), (3, 4, 5), (7,)))],
    "factors": [FactorizeWordTable(rank=8)],
    "int8": [FakeQuantize()],
    "factors, integers": [FactorizeWordTable(rank=8), FakeQuantize()],
    "integers": [FakeQuantize()],
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_edited_models_reload_bit_for_bit_and_tied_heads_stay_tied(family, name, tmp_path):
    model = model_of(family)
    tied = model.network.get_output_embeddings().weight is model.network.get_input_embeddings().weight
    data = TASK.encode([tables_of(tmp_path)["dev"]], model.tokenizer, tmp_path / "tokens")
    batch = collate(data, np.arange(8), model.pad_id)
    model.edit(EDITS[name])
    if "int" in name:
        calibrate(model.network, [batch])
    if "integers" in name:
        model.edit([StoreIntegers()])
    lissom.save(model, tmp_path / "model")
    again = lissom.load(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(logits_of(model.network, batch), logits_of(again.network, batch))
    if tied and name.startswith("factors"):
        assert again.network.lm_head.table is again.network.get_submodule("transformer.wte").table
    if tied and name == "integers":
        assert again.network.lm_head.table is again.network.get_submodule("transformer.wte")


@pytest.mark.parametrize("family", DECODERS)
def test_continuing_with_a_cache_equals_reading_the_whole_text(family, tmp_path):
    """Windows, soft caps, shared keys and heads that were removed; blocks that were dropped leave no gap in the cache."""
    model = model_of(family)
    model.edit([KeepBlocks(kept=(0, 2, 3)), KeepHeads(kept=((0,), (0, 1), (1,)))])
    export_onnx(model, tmp_path)
    served, generator = OnnxClassifier(tmp_path), torch.Generator().manual_seed(0)
    for length in (1, 5, 11):
        ids = torch.randint(4, tiny.SIZE, (1, length), generator=generator)
        state, tokens = None, ids[0].tolist()
        for new in (tokens, *([token] for token in (7, 60, 61))):
            logits, state = served.step(new, state)
            ids = torch.cat([ids, torch.tensor([new])], 1) if new is not tokens else ids
            with torch.no_grad():
                expected = model.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
            assert np.abs(logits - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_int8_file_scores_and_continues_as_torch_does(family, tmp_path):
    model = model_of(family)
    data = TASK.encode([tables_of(tmp_path)["dev"]], model.tokenizer, tmp_path / "tokens")
    model.edit([KeepNeurons(kept=(tuple(range(16)),) * 4), FakeQuantize()])
    calibrate(model.network, [collate(data, np.arange(12), model.pad_id)])
    (tmp_path / "export").mkdir()
    exported = export_onnx(model, tmp_path / "export")
    assert exported.kernels() > 4
    assert check_parity(model, exported, data, ExportParams(int8_tolerance=1.0, label_agreement=0.95)).agreement > 0.95
    served = OnnxClassifier(tmp_path / "export")
    whole, state = served.step([1, 70, 61, 72], None)
    _, state = served.step([1, 70, 61], None)
    stepped, _ = served.step([72], state)
    assert np.abs(whole - stepped).max() < 0.2  # ranges of inputs are those of other tokens


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_the_exported_file_scores_as_torch_does(family, tmp_path):
    model = model_of(family)
    data = TASK.encode([tables_of(tmp_path)["dev"]], model.tokenizer, tmp_path / "tokens")
    (tmp_path / "export").mkdir()
    exported = export_onnx(model, tmp_path / "export")
    parity = check_parity(model, exported, data, ExportParams(float_tolerance=1e-3))
    assert parity.agreement == 1.0
    answers = split_answers(exported, data, TASK)
    assert answers.shape == (len(data.targets), 2)  # never one number for every token of the vocabulary
    quality = TASK.quality(answers, answers, data.targets, 15)
    assert quality.agreement == 1.0 and quality.figures["perplexity"] == quality.score > 1
    paired = compare_scores(TASK, answers, answers, data)
    assert paired.kept.value == 1 and paired.drop.value == 0
    forgetful = exported.stepper(1)
    exported.stepper = lambda threads: lambda tokens, _: forgetful(tokens, None)
    with pytest.raises(InputError, match="file and torch differ"):
        check_parity(model, exported, data, ExportParams(float_tolerance=1e-3))


def test_a_text_without_tokens_is_refused():
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.post_processor = processors.Sequence([])
    serving = {"max_length": 12, "new_tokens": 4, "end_ids": []}
    with pytest.raises(ValueError, match="cannot be continued"):
        continuations(lambda *_: (np.zeros(5), None), tokenizer, [""], serving)


def test_what_ends_texts_is_not_read_before_a_continuation():
    tokenizer, read = tiny.byte_level_tokenizer(), []

    def step(tokens, _):
        read.append(tokens)
        return np.eye(5, dtype=np.float32)[2], None

    continuations(step, tokenizer, ["good film"], {"max_length": 12, "new_tokens": 4, "end_ids": [2]})
    assert tokenizer.encode("good film").ids == [*read[0], 2]


def test_half_of_the_window_is_for_the_prompt():
    """Also where the window is shorter than a continuation may be."""
    read, tokenizer = [], tiny.tokenizer()

    def step(tokens, state):
        read.append(list(tokens))
        return np.eye(len(tiny.WORDS) + 10, dtype=np.float32)[4], None

    ids = tokenizer.encode(" ".join(tiny.WORDS[:12])).ids
    continuations(step, tokenizer, [" ".join(tiny.WORDS[:12])], {"max_length": 8, "new_tokens": 32, "end_ids": []})
    assert len(read[0]) == 4 and read[0] == ids[-4:] and len(read) == 4


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_language_models_answers_are_checked_like_others(family, tmp_path):
    model = model_of(family)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    export_onnx(model, tmp_path / "whole")
    whole = OnnxClassifier(tmp_path / "whole")
    with pytest.raises(ValueError, match="half a surrogate pair"):
        whole.predict(["a \ud800"])
    with pytest.raises(ValueError, match="this model has no exits"):
        whole.predict(["the film"], speed=0.5)
    next(iter(model.network.parameters())).data.fill_(float("nan"))
    export_onnx(model, tmp_path / "broken")
    with pytest.raises(NonFiniteOutputError, match="diverged"):
        OnnxClassifier(tmp_path / "broken").predict(["the film"])
