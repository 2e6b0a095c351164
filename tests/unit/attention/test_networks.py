"""Patterns and more positions in networks of every family: the same answers trained, saved and pruned."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import lissom
from lissom.attention import run
from lissom.attention.config import BlockLocal, FixedRadius, LongNet, SparseTransformer
from lissom.errors import InputError
from lissom.gguf.architecture import architecture_of
from lissom.models.compressed import input_names, logits_of
from lissom.models.edits import ExtendPositions, KeepBlocks, KeepHeads, UseAttention
from lissom.models.flops import flops_by_depth
from lissom.models.patterned import NAME
from lissom.models.signals import SignalSpec, check_signals
from lissom.models.sites import attention_sites, head_groups
from lissom.tasks.language_modeling import LanguageModeling
from lissom.training.config import TrainingParams
from lissom.training.preparing import training_mode
from tests.unit import tiny

ABLE = tiny.able("attention")
families = pytest.mark.parametrize("family", ABLE)
LOCAL = FixedRadius(pattern="fixed_radius", radius=2)
PATTERNS = {
    "fixed_radius": [LOCAL],
    "global token": [FixedRadius(pattern="fixed_radius", radius=1, global_tokens=1)],
    "block_local": [BlockLocal(pattern="block_local", size=4)],
    "block_local beyond short texts": [BlockLocal(pattern="block_local", size=10)],
    "sparse_transformer": [SparseTransformer(pattern="sparse_transformer", stride=3)],
    "fixed": [SparseTransformer(pattern="sparse_transformer", form="fixed", stride=4, summary=1)],
    "longnet": [LongNet(pattern="longnet", segments=(3, 6), dilations=(1, 2))],
    "of some blocks and heads": [
        BlockLocal(pattern="block_local", size=3, blocks=(1, 3)),
        FixedRadius(pattern="fixed_radius", radius=1, blocks=(2,), heads=(1, 2)),
    ],
}
LANGUAGE = LanguageModeling(name="texts", pair=False, max_length=16)
patterned = pytest.mark.parametrize("name", PATTERNS)


def model_with(family, patterns, **changes):
    model = tiny.model(family, **changes)
    model.edit([UseAttention(patterns=tuple(patterns))])
    return model


def answers(model, batch):
    with torch.no_grad():
        return logits_of(model.network, batch)


@families
@patterned
def test_short_and_long_paths_agree_and_reload_bit_for_bit(family, name, tmp_path, monkeypatch):
    model, batch = model_with(family, PATTERNS[name]), tiny.batch(family, length=17)
    dense = answers(model, batch)
    assert (dense - answers(tiny.model(family), batch)).abs().max() > 1e-4, "the pattern is honoured"
    monkeypatch.setattr(run, "DENSE_BELOW", 0)
    torch.testing.assert_close(answers(model, batch), dense, atol=1e-5, rtol=1e-4)
    lissom.save(model, tmp_path / "model")
    again = lissom.load(tmp_path / "model")
    assert torch.equal(answers(again, batch), answers(model, batch))
    assert '"lissom-' in (tmp_path / "model/config.json").read_text(), "plain transformers would attend to all keys"


@families
def test_a_pattern_of_all_keys_changes_nothing(family, monkeypatch):
    monkeypatch.setattr(run, "DENSE_BELOW", 0)
    batch = tiny.batch(family)
    changes = {} if getattr(tiny.CONFIGS[family](), "sliding_window", None) is None else {"sliding_window": 64}
    model = tiny.model(family, **changes)
    model.network.set_attn_implementation("eager")
    before = answers(model, batch)
    model.edit([UseAttention(patterns=(BlockLocal(pattern="block_local", size=64),))])
    torch.testing.assert_close(answers(model, batch), before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma2", "gemma3_text", "modernbert"])
@pytest.mark.parametrize("longest", [0, 256], ids=["efficient", "dense"])
def test_windows_of_a_family_equal_transformers_own(family, longest, monkeypatch):
    """Answers and gradients, of texts that are several windows long, with padding within them."""
    monkeypatch.setattr(run, "DENSE_BELOW", longest)
    model, batch = tiny.model(family, max_position_embeddings=64), tiny.batch(family, 3, length=40)
    batch.inputs["attention_mask"][1, 5:9] = 0
    found = []
    for way in (NAME, "eager"):
        model.network.set_attn_implementation(way)
        logits = logits_of(model.network, batch)
        logits.square().sum().backward()
        found.append({name: value.grad for name, value in model.network.named_parameters()} | {"logits": logits})
        model.network.zero_grad()
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if theirs[name] is not None:
            torch.testing.assert_close(
                value, theirs[name], atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("family", ["llama", "qwen3", "bert"])
@pytest.mark.parametrize("name", [name for name in PATTERNS if "beyond" not in name])
def test_trains_in_bfloat16(family, name, monkeypatch):
    """Where rotary positions leave queries and keys in another type than values."""
    monkeypatch.setattr(run, "DENSE_BELOW", 0)
    model, batch = model_with(family, PATTERNS[name]), tiny.batch(family, length=17)
    expected = logits_of(model.network, batch)
    with training_mode(model.network, TrainingParams(gradient_checkpointing=True, freeze_word_table=False)):
        for module in model.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.autocast("cpu", torch.bfloat16):
            logits = logits_of(model.network, batch)
        torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0.1)
        logits.float().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.network.parameters() if p.grad is not None)


@families
def test_gradients_reach_all_parameters(family, monkeypatch):
    monkeypatch.setattr(run, "DENSE_BELOW", 0)
    found = []
    for patterns in ([FixedRadius(pattern="fixed_radius", radius=64)], PATTERNS["longnet"]):
        model = model_with(family, patterns)
        logits_of(model.network, tiny.batch(family)).sum().backward()
        found.append({name for name, value in model.network.named_parameters() if value.grad is not None})
    assert found[0] == found[1]


@pytest.mark.parametrize("family", [family for family in ABLE if family in tiny.able("heads")])
def test_pruned_heads_keep_the_patterns_of_the_others(family):
    """Heads that put out nothing and heads that are gone give the same answers, though the numbers of the rest change."""
    patterns = [
        LongNet(pattern="longnet", segments=(3, 6), dilations=(1, 2), heads=(2, 3)),
        BlockLocal(pattern="block_local", size=3, heads=(1,)),
    ]
    model, batch = model_with(family, patterns), tiny.batch(family)
    units, group = tiny.units(model.network), head_groups(model.network)
    kept = tuple(range(1, units))
    for site in attention_sites(model.network):
        output = model.network.get_submodule(site.output)
        output.weight.data[:, : group * output.in_features // (units * group)] = 0
    before = answers(model, batch)
    model.edit([KeepHeads(kept=(kept,) * len(attention_sites(model.network)))])
    torch.testing.assert_close(answers(model, batch), before, atol=1e-5, rtol=1e-4)


def test_blocks_keep_their_patterns():
    model, batch = model_with("bert", PATTERNS["of some blocks and heads"]), tiny.batch("bert")
    other = model_with("bert", [BlockLocal(pattern="block_local", size=3, blocks=(1,))])
    model.edit([KeepBlocks(kept=(0, 1))])
    other.edit([KeepBlocks(kept=(0, 1))])
    torch.testing.assert_close(answers(model, batch), answers(other, batch))


def test_operations_grow_with_the_pairs():
    model = model_with("bert", [FixedRadius(pattern="fixed_radius", radius=2)], max_position_embeddings=4096)
    whole = tiny.model("bert", max_position_embeddings=4096)
    counted, dense = (flops_by_depth(one.network, (1024, 2048)) for one in (model, whole))
    assert counted[2048][0] < 2.01 * counted[1024][0]
    assert dense[2048][0] > 3 * dense[1024][0]


def test_operations_of_short_texts_are_those_of_dense_attention():
    """As which they are computed; a window that reaches both ends of a text is dense attention, too."""
    whole = flops_by_depth(tiny.model("bert", max_position_embeddings=512).network, (16, 256, 300, 400))
    for radius in (8, 350):
        window = FixedRadius(pattern="fixed_radius", radius=radius)
        counted = flops_by_depth(model_with("bert", [window], max_position_embeddings=512).network, whole)
        assert counted[16] == whole[16] and counted[256] == whole[256]
        assert (counted[300] == whole[300]) == (radius == 350) and counted[400] != whole[400]


def test_a_window_that_reaches_both_ends_is_dense_attention(monkeypatch):
    """It costs nothing more, whatever the length."""
    monkeypatch.setattr(run, "DENSE_BELOW", 0)
    monkeypatch.setattr(run, "_part", None)
    batch = tiny.batch("llama", length=17)
    plain = answers(tiny.model("llama"), batch)
    torch.testing.assert_close(
        answers(model_with("llama", [FixedRadius(pattern="fixed_radius", radius=16)]), batch), plain
    )
    with pytest.raises(TypeError):
        answers(model_with("llama", [FixedRadius(pattern="fixed_radius", radius=15)]), batch)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="block_local is for block 9; the model has blocks 0 to 3"):
        model_with("bert", [BlockLocal(pattern="block_local", blocks=(9,))])
    with pytest.raises(InputError, match="fixed_radius is for head 4; the model has heads 0 to 3"):
        model_with("bert", [FixedRadius(pattern="fixed_radius", heads=(4,))])
    with pytest.raises(InputError, match="computes attention inside its blocks"):
        model_with("deberta-v2", [LOCAL])
    with pytest.raises(InputError, match="needs the scores of all"):
        check_signals(model_with("bert", [LOCAL]).network, SignalSpec(scores=(0,)), "teacher")
    with pytest.raises(InputError, match="patterns, which a GGUF file cannot express"):
        architecture_of(model_with("llama", [LOCAL]).network)


@pytest.mark.parametrize("family", tiny.able("longer"))
@pytest.mark.parametrize("how", ["copy", "interpolate"])
def test_more_positions_reload_and_run(family, how, tmp_path):
    model = tiny.model(family)
    before = answers(model, tiny.batch(family))
    model.edit([ExtendPositions(length=60, how=how)])
    long = answers(model, tiny.batch(family, length=60))
    assert long.isfinite().all()
    if how == "copy":  # the old positions are as they were
        torch.testing.assert_close(answers(model, tiny.batch(family)), before)
    else:
        assert (answers(model, tiny.batch(family)) - before).abs().max() > 1e-4
    lissom.save(model, tmp_path / "model")
    assert torch.equal(answers(lissom.load(tmp_path / "model"), tiny.batch(family, length=60)), long)
    with pytest.raises(InputError, match="60 positions asked for"):
        model.edit([ExtendPositions(length=60, how=how)])


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
@pytest.mark.parametrize("how", ["copy", "interpolate"])
def test_plain_transformers_reads_more_positions(family, how, tmp_path):
    model = tiny.model(family)
    model.edit([ExtendPositions(length=60, how=how)])
    lissom.save(model, tmp_path / "model")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    batch = tiny.batch(family, length=60)
    with torch.no_grad():
        expected = plain(**{name: batch.inputs[name] for name in input_names(model.network)}).logits
    torch.testing.assert_close(answers(model, batch), expected, atol=1e-5, rtol=1e-4)


def test_a_stretched_table_holds_the_old_rows_in_between():
    model = tiny.model("bert")
    old = model.network.bert.embeddings.position_embeddings.weight.detach().clone()
    model.edit([ExtendPositions(length=2 * len(old) - 1, how="interpolate")])
    new = model.network.bert.embeddings.position_embeddings.weight.detach()
    torch.testing.assert_close(new[::2], old)
    torch.testing.assert_close(new[1::2], (old[1:] + old[:-1]) / 2)


@pytest.mark.parametrize("family", tiny.able("language"))
@pytest.mark.parametrize("name", ["fixed_radius", "longnet", "of some blocks and heads"])
def test_a_text_is_continued_as_it_is_read_whole(family, name):
    network = model_with(family, PATTERNS[name], task=LANGUAGE).network
    ids = tiny.batch(family, length=12).ids[:1]
    with torch.no_grad():
        whole = network(input_ids=ids).logits
        first = network(input_ids=ids[:, :8], use_cache=True)
        if family in ("mistral", "qwen2", "gemma2", "gemma3_text"):
            with pytest.raises(InputError, match="keeps the keys of its own window alone"):
                network(input_ids=ids[:, 8:], past_key_values=first.past_key_values)
            return
        rest = network(input_ids=ids[:, 8:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], 1), whole, atol=1e-5, rtol=1e-4)
