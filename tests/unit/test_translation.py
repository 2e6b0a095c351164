"""Translation: decoder inputs, edits of encoder and decoder, two graphs that write as torch does, and new models."""

import copy
import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

import lissom
from lissom.data.batches import collate
from lissom.data.tables import Row, write_table
from lissom.errors import InputError
from lissom.export.config import ExportParams
from lissom.export.exported import model_bytes
from lissom.export.onnx import export_onnx
from lissom.export.onnx_file import OnnxFile
from lissom.export.parity import check_parity
from lissom.models.base import load_base
from lissom.models.compressed import logits_of
from lissom.models.config import BaseParams, NewModelParams
from lissom.models.edits import FakeQuantize, KeepBlocks, KeepHeads, KeepNeurons
from lissom.models.generation import TorchModel, end_ids
from lissom.models.layers import observers_of
from lissom.models.sites import attention_sites, ffn_sites
from lissom.parallel.parts import split_batch
from lissom.prune.importance import gated
from lissom.quantize.int8 import calibrate
from lissom.serving.answers import NonFiniteOutputError
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.folder import DECODER
from lissom.tasks.classification import Classification
from lissom.tasks.translation import LABEL_SMOOTHING, Translation
from lissom.training.losses import against_targets

COLD = {"loss": {"temperature": 1.0}}
TASK = Translation(name="colours", pair=False, max_length=12)
FAMILIES = ("bart", "marian", "t5")
SHAPE = NewModelParams(vocabulary=512, width=32, blocks=3, heads=4, neurons=48, dropout=0.1)
WORDS = {
    "the": "das",
    "red": "rote",
    "blue": "blaue",
    "old": "alte",
    "dog": "Tier",
    "house": "Haus",
    "sees": "sieht",
    "a": "ein",
}
NOUNS = ("dog", "house")
TRAINING = {"epochs": 12, "batch_size": 8, "learning_rate": 5e-3, "freeze_word_table": False, "precision": "float32"}


def pairs_of(count, seed=0):
    """Sentences of three or six words."""
    generator = random.Random(seed)
    for _ in range(count):
        adjective, subject, noun = (generator.choice(names) for names in (("red", "blue", "old"), NOUNS, NOUNS))
        words = ["the", adjective, subject, *(["sees", "a", noun] if generator.random() < 0.7 else [])]
        yield Row(" ".join(words), None, " ".join(WORDS[word] for word in words))


def tables_of(folder, sizes=(("train", 80), ("transfer", 0), ("dev", 16), ("test", 16))):
    return {
        name: write_table(folder / f"{name}.arrow", pairs_of(count, seed)) for seed, (name, count) in enumerate(sizes)
    }


def model_of(family, seed=0):
    params = BaseParams(model=f"new:{family}", shape=SHAPE, max_length=12)
    model = load_base(
        params, TASK, seed, texts=lambda: [text for row in pairs_of(80) for text in (row.text, row.label)]
    )
    for parameter in model.network.parameters():  # biases and norms other than 0 and 1, so that losing one shows
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.network.tie_weights()
    return model


def batch_of(model, folder, count=6):
    data = model.manifest.task.encode(
        [write_table(folder / "batch.arrow", pairs_of(count, 9))], model.tokenizer, folder / "batch"
    )
    return collate(data, np.arange(count), model.pad_id)


def test_a_base_models_own_settings_of_writing_are_told_and_not_used(tmp_path):
    """They are in no exported file and no saved model."""
    model, told = model_of("bart"), []
    network = model.network
    network.generation_config.update(no_repeat_ngram_size=1, repetition_penalty=3.0)
    network.save_pretrained(tmp_path / "base")
    PreTrainedTokenizerFast(
        tokenizer_object=model.tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path / "base")
    params = BaseParams(model=f"dir:{tmp_path / 'base'}", max_length=12)
    loaded = load_base(params, TASK, 0, told.append)
    assert any("(no_repeat_ngram_size, repetition_penalty) are left out" in line for line in told)
    lissom.save(loaded, tmp_path / "saved")
    table = write_table(tmp_path / "texts.arrow", pairs_of(8))
    batch = collate(loaded.encode([table], tmp_path / "tokens"), np.arange(8), loaded.pad_id)
    written = [TorchModel(each.network, 12).generate(batch) for each in (loaded, lissom.load(tmp_path / "saved"))]
    assert written[0] == written[1] and max(map(len, written[0])) == 12, "no end is forced"
    assert any(len(set(tokens)) < len(tokens) for tokens in written[0]), "words may come again"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_reads_what_transformers_gives_it(family, tmp_path):
    """All tokens but the last, behind the first token; the rows of targets are the tokens of the labels, end included."""
    model = model_of(family)
    batch = batch_of(model, tmp_path)
    counts = batch.inputs["decoder_attention_mask"].sum(1)
    labels = torch.full(batch.inputs["decoder_input_ids"].shape, -100)
    labels[batch.inputs["decoder_attention_mask"].bool()] = batch.targets
    assert all(batch.targets[count - 1] == model.network.config.eos_token_id for count in counts.cumsum(0))
    with torch.no_grad():
        theirs = model.network(input_ids=batch.ids, attention_mask=batch.mask, labels=labels)
        ours = logits_of(model.network, batch)
    assert torch.allclose(ours, theirs.logits[labels >= 0], atol=1e-5)
    assert float(F.cross_entropy(ours, batch.targets)) == pytest.approx(float(theirs.loss), rel=1e-5)
    smoothed = F.cross_entropy(ours, batch.targets, label_smoothing=LABEL_SMOOTHING)
    assert float(TASK.loss(ours, batch.targets)) == pytest.approx(float(smoothed), rel=1e-6)


def test_a_text_without_a_translation_has_no_targets_and_every_text_is_judged(tmp_path):
    model = model_of("t5")
    rows = [Row("the dog", None, "das Tier"), Row("a house", None, None), Row("red " * 40, None, "rote " * 40)]
    table = write_table(tmp_path / "t.arrow", rows)
    data = TASK.encode([table], model.tokenizer, tmp_path / "tokens")
    assert data.row_counts(np.arange(3)).tolist()[1:] == [0, 12] and TASK.count_rows([table], model.tokenizer) == len(
        data.targets
    )
    assert data.lengths.max() == 12 and data.judged.targets.tolist() == ["das Tier", "", "rote " * 40]
    batch = collate(data, np.asarray([0, 1, 2]), model.pad_id)
    assert logits_of(model.network, batch).shape[0] == len(batch.targets) == len(data.targets)


def test_an_encoder_decoder_labels_no_texts(tmp_path):
    model = model_of("bart")
    lissom.save(model, tmp_path / "model")
    labels = Classification(name="x", labels=("a", "b"), pair=False, max_length=12)
    with pytest.raises(InputError, match="made for the translation of a text"):
        load_base(BaseParams(model=f"dir:{tmp_path / 'model'}", max_length=12), labels, 0)
    (tmp_path / "model" / "lissom.json").unlink()
    with pytest.raises(InputError, match=r"label texts.*two stacks"):
        load_base(BaseParams(model=f"dir:{tmp_path / 'model'}", max_length=12), labels, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_the_same_and_loads_in_transformers(family, tmp_path):
    model = model_of(family)
    model.edit([KeepBlocks(kept=(0, 2), stack="encoder"), KeepBlocks(kept=(0,), stack="decoder")])
    model.edit([KeepNeurons(kept=tuple(tuple(range(8, 40)) for _ in ffn_sites(model.network)))])
    batch = batch_of(model, tmp_path)
    lissom.save(model, tmp_path / "model")
    again, plain = lissom.load(tmp_path / "model"), AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    expected = logits_of(model.network, batch)
    assert torch.equal(logits_of(again.network, batch), expected)
    assert torch.allclose(logits_of(plain.eval(), batch), expected, atol=1e-5)
    assert again.network.lm_head.weight is again.network.get_input_embeddings().weight
    assert TorchModel(again.network, 12).generate(batch) == TorchModel(plain, 12).generate(batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gate_of_zero_is_a_removed_head(family, tmp_path):
    """In every attention of encoder and decoder, and of the decoder to the encoder."""
    model, reference = model_of(family), model_of(family)
    batch, sites = batch_of(model, tmp_path), attention_sites(model.network)
    kept = tuple((0, 2, 3) if number % 2 else (1, 2) for number in range(len(sites)))
    gates = [torch.tensor([[float(head in heads) for head in range(4)]]) for heads in kept]
    with gated([reference.network.get_submodule(site.output) for site in sites], gates, 8):
        expected = logits_of(reference.network, batch)
    model.edit([KeepHeads(kept=kept)])
    assert torch.allclose(logits_of(model.network, batch), expected, atol=1e-5)
    assert not torch.allclose(logits_of(reference.network, batch), expected, atol=1e-2)
    lissom.save(model, tmp_path / "model")
    assert torch.equal(logits_of(lissom.load(tmp_path / "model").network, batch), logits_of(model.network, batch))
    half = [tuple(range(1, len(heads))) for heads in kept]  # heads of heads
    again, at_once = copy.deepcopy(model), model_of(family)
    again.edit([KeepHeads(kept=tuple(half))])
    at_once.edit(
        [KeepHeads(kept=tuple(tuple(heads[place] for place in of) for heads, of in zip(kept, half, strict=True)))]
    )
    assert torch.equal(logits_of(again.network, batch), logits_of(at_once.network, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gate_of_zero_is_a_removed_neuron(family, tmp_path):
    model, reference = model_of(family), model_of(family)
    batch, sites = batch_of(model, tmp_path), ffn_sites(model.network)
    kept = tuple(tuple(range(number, 40)) for number in range(len(sites)))
    gates = [torch.tensor([[float(neuron in neurons) for neuron in range(48)]]) for neurons in kept]
    with gated([reference.network.get_submodule(site.output) for site in sites], gates, 1):
        expected = logits_of(reference.network, batch)
    model.edit([KeepNeurons(kept=kept)])
    assert torch.allclose(logits_of(model.network, batch), expected, atol=1e-5)


def quantized(model, folder):
    model.edit([FakeQuantize()])
    calibrate(model.network, [batch_of(model, folder, 32)])
    return model


@pytest.mark.parametrize("form", ["float", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graphs_score_and_write_as_torch_does(family, form, tmp_path):
    """Of a model with fewer blocks, heads, not the same number everywhere, and neurons."""
    model = model_of(family)
    model.edit([KeepBlocks(kept=(0, 2), stack="decoder"), KeepBlocks(kept=(0, 1), stack="encoder")])
    sites = attention_sites(model.network)
    model.edit([KeepHeads(kept=tuple((0, 3) if number % 2 else (1,) for number in range(len(sites))))])
    model.edit([KeepNeurons(kept=(tuple(range(32)),) * len(ffn_sites(model.network)))])
    if form == "int8":
        model.edit([FakeQuantize()])
        calibrate(model.network, [batch_of(model, tmp_path, 32)])
    folder = tmp_path / "export"
    folder.mkdir()
    file = export_onnx(model, folder)
    data = TASK.encode([write_table(tmp_path / "d.arrow", pairs_of(20, 5))], model.tokenizer, tmp_path / "d")
    parity = check_parity(model, file, data, ExportParams(int8_tolerance=2.0, label_agreement=0.9))
    assert form == "int8" or parity.max_logit_difference < 1e-4
    assert (file.kernels() > 0) == (form == "int8")
    assert model_bytes(file.files) == sum((folder / name).stat().st_size for name in ("model.onnx", DECODER))
    batch = collate(data, np.arange(20), model.pad_id)
    for beams in (1, 3):
        export_again(folder, beams=beams)
        written = OnnxFile(folder).generate(batch)
        expected = TorchModel(model.network, 12, beams).generate(batch)
        share = np.mean([ours == theirs for ours, theirs in zip(written, expected, strict=True)])
        assert share >= (0.5 if form == "int8" else 0.9)  # the probabilities of an untrained model are near ties
        assert max(map(len, written)) <= 12 and all(model.pad_id not in tokens for tokens in written)


def export_again(folder, **changes):
    serving = json.loads((folder / "serving.json").read_text())
    (folder / "serving.json").write_text(json.dumps(serving | changes))


def test_padding_of_what_a_decoder_reads_is_not_observed(tmp_path):
    """Ranges do not depend on how long the other answers of a batch are."""
    model = model_of("marian")
    model.edit([FakeQuantize()])
    batch = batch_of(model, tmp_path, 4)
    calibrate(model.network, [batch])
    expected = [(float(layer.low), float(layer.high)) for layer in observers_of(model.network)]
    longer = {name: F.pad(tensor, (0, 3)) for name, tensor in batch.inputs.items()}
    longer["decoder_input_ids"][:, -3:] = 77
    again = model_of("marian")
    again.edit([FakeQuantize()])
    calibrate(again.network, [dataclasses.replace(batch, inputs=longer)])
    assert {layer.mask_name for layer in observers_of(again.network)} == {"attention_mask", "decoder_attention_mask"}
    for layer, ranges in zip(observers_of(again.network), expected, strict=True):
        assert (float(layer.low), float(layer.high)) == pytest.approx(ranges, abs=1e-5)


def test_a_diverged_model_gives_an_error(tmp_path):
    model = model_of("marian")
    model.network.model.decoder.layers[0].fc1.weight.data[:] = float("nan")
    export_onnx(model, tmp_path)
    with pytest.raises(NonFiniteOutputError):
        OnnxClassifier(tmp_path).predict(["the dog"])


def test_the_models_end_is_known():
    assert end_ids(model_of("bart").network) == [1]


def test_the_gradients_of_parts_of_a_batch_add_up(tmp_path):
    """Parts have answers of other lengths, so that they are padded less."""
    model = model_of("bart")
    data = TASK.encode([write_table(tmp_path / "t.arrow", pairs_of(7, 2))], model.tokenizer, tmp_path / "t")
    members, loss = np.arange(7), against_targets(TASK)
    model.network.double()
    table = model.network.get_input_embeddings().weight

    def gradient(parts):
        (result,) = torch.autograd.grad(sum(part.weight * loss(model.network, part.batch) for part in parts), table)
        return result

    whole = gradient(split_batch(data, members, model.pad_id, 1, [0]))
    assert torch.allclose(gradient(split_batch(data, members, model.pad_id, 3, [0, 1, 2])), whole, atol=1e-6)


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
@pytest.mark.parametrize(("encoder", "decoder"), [(1, 2), (2, 1)])
def test_stacks_of_different_depths_write(family, encoder, decoder, tmp_path):
    model = model_of(family)
    model.edit([
        KeepBlocks(kept=tuple(range(encoder)), stack="encoder"), KeepBlocks(kept=tuple(range(decoder)), stack="decoder")
    ])  # fmt: skip
    batch = batch_of(model, tmp_path)
    ours = TorchModel(model.network, 8).generate(batch)
    assert len(ours) == len(batch.ids) and TorchModel(model.network, 8, beams=3).generate(batch)
    ids = torch.full((len(batch.ids), 1), model.network.config.decoder_start_token_id)
    with torch.no_grad():
        for _ in range(8):
            logits = model.network(input_ids=batch.ids, attention_mask=batch.mask, decoder_input_ids=ids).logits[:, -1]
            logits[:, model.network.config.pad_token_id] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    for written, whole in zip(ours, ids[:, 1:].tolist(), strict=True):
        assert written == whole[: len(written)]
