import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import lissom
from lissom.data.batches import Batch
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.edits import (
    FactorizeWordTable,
    FakeQuantize,
    KeepBlocks,
    KeepHeads,
    KeepNeurons,
    KeepPositions,
    KeepVocabulary,
)
from lissom.models.edits.word_table import truncated_svd
from lissom.models.families import FAMILIES
from lissom.models.family import FfnSite
from lissom.models.sites import attention_sites, blocks_of, ffn_sites
from lissom.prune.importance import gated
from lissom.quantize.int8 import calibrate
from tests.unit import tiny

families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)

BLOCKS = KeepBlocks(kept=(0, 2, 3))
HEADS = KeepHeads(kept=((0,), (0, 1), (1,)))
NEURONS = KeepNeurons(kept=(tuple(range(0, 48, 2)), tuple(range(8)), (5, 7)))
VOCABULARY = KeepVocabulary(kept=tuple(range(tiny.SIZE - 5)))
POSITIONS = KeepPositions(length=16)
TABLE = FactorizeWordTable(rank=8)
QUANTIZE = FakeQuantize()
HEADS_OF_FOUR = KeepHeads(kept=((0,), (1,), (0, 1), (1,)))


def kept_tokens(family: str) -> Batch:
    """Examples of tokens that every edit here keeps."""
    batch = tiny.batch(family)
    batch.ids.clamp_(max=tiny.SIZE - 6)
    return batch


def logits(model: CompressedModel, family: str) -> torch.Tensor:
    with torch.no_grad():
        return logits_of(model.network, kept_tokens(family))


COMPOSITIONS = {
    "blocks": [BLOCKS],
    "blocks+heads": [BLOCKS, HEADS],
    "heads first": [KeepHeads(kept=((0,), (1,), (0, 1), (1,))), BLOCKS],
    "neurons": [BLOCKS, NEURONS],
    "vocabulary": [VOCABULARY],
    "rank, then vocabulary": [TABLE, VOCABULARY],
    "vocabulary, then rank": [VOCABULARY, TABLE],
    "all": [BLOCKS, HEADS, NEURONS, VOCABULARY, TABLE, QUANTIZE],
}


@families
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_composition_reloads_bit_for_bit(family, name, tmp_path):
    model = tiny.model(family)
    model.edit(tiny.suited(family, COMPOSITIONS[name]))
    if QUANTIZE in COMPOSITIONS[name]:
        calibrate(model.network, [kept_tokens(family)])
    lissom.save(model, tmp_path / "model")
    again = lissom.load(tmp_path / "model")
    assert torch.equal(logits(model, family), logits(again, family))
    assert again.manifest == model.manifest
    lissom.save(again, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()


@families
def test_keeping_everything_changes_nothing(family):
    model = tiny.model(family)
    before = logits(model, family)
    units = tuple(range(tiny.units(model.network)))
    edits = [
        KeepBlocks(kept=(0, 1, 2, 3)),
        KeepHeads(kept=(units,) * 4),
        KeepNeurons(kept=(tuple(range(48)),) * 4),
        KeepVocabulary(kept=tuple(range(tiny.SIZE))),
    ]
    model.edit(tiny.suited(family, edits))
    assert torch.equal(logits(model, family), before)


def inputs_of_site(site) -> tuple[str, ...]:
    """Projections whose rows belong to the heads or neurons of a site."""
    return site.inputs if isinstance(site, FfnSite) else (site.query, site.key, site.value, *site.positions)


@families
@pytest.mark.parametrize("part", ["heads", "neurons"])
def test_gate_zero_equals_removal_forward_and_backward(family, part):
    gated_model, cut_model = tiny.model(family), tiny.model(family)
    network = gated_model.network
    if part == "heads":
        sites, count = attention_sites(network), tiny.units(network)
        kept = ((0,), (1,), (0, 1), (1,))
        cut_model.edit([KeepHeads(kept=kept)])
    else:
        sites, count = ffn_sites(network), 48
        kept = (tuple(range(10)), tuple(range(20, 48)), (3,), tuple(range(48)))
        cut_model.edit([KeepNeurons(kept=kept)])
    outputs = {site.output for site in sites}
    inputs = {path for site in sites for path in inputs_of_site(site)}
    projections = [network.get_submodule(site.output) for site in sites]
    gates = [torch.zeros(1, count).index_fill(1, torch.tensor(units), 1.0) for units in kept]
    batch = tiny.batch(family)
    width = projections[0].in_features // count
    with gated(projections, gates, width):
        masked = logits_of(gated_model.network, batch)
        masked.sum().backward()
    removed = logits_of(cut_model.network, batch)
    removed.sum().backward()
    assert torch.allclose(masked, removed, atol=1e-5)
    compared = 0
    for name, parameter in cut_model.network.named_parameters():
        whole = network.get_parameter(name).grad
        if parameter.grad is None:
            assert whole is None, name
            continue
        path, _, kind = name.rpartition(".")
        for number, site in enumerate(sites):  # of a tensor that was cut: what is left of its gradient
            rows = torch.tensor(kept[number])
            if path == site.output and kind == "weight":
                whole = whole.view(len(whole), count, -1)
                assert whole.index_fill(1, rows, 0.0).abs().max() == 0, f"{name}: gradient of a unit with gate 0"
                whole = whole[:, rows].flatten(1)
            elif path in inputs_of_site(site):
                whole = whole.view(count, -1, *whole.shape[1:])
                assert whole.index_fill(0, rows, 0.0).abs().max() == 0, f"{name}: gradient of a unit with gate 0"
                whole = whole[rows].flatten(0, 1)
        rounding = 1e-5 * max(1.0, float(whole.abs().max()))  # norms of small outputs have large gradients
        assert torch.allclose(whole, parameter.grad, atol=rounding), name
        compared += path in inputs | outputs
    assert compared >= sum(1 + len(inputs_of_site(site)) for site in sites)


@families
def test_dropping_a_block_equals_bypassing_it(family):
    model, bypassed = tiny.model(family), tiny.model(family)
    model.edit([KeepBlocks(kept=(0, 1, 3))])
    block = blocks_of(bypassed.network)[2]
    returns_tuple = family == "deberta-v2"
    block.forward = lambda hidden_states, *_, **__: (hidden_states, None) if returns_tuple else hidden_states
    assert torch.allclose(logits(model, family), logits(bypassed, family), atol=1e-6)


@pytest.mark.parametrize("family", [name for name in tiny.FAMILY_NAMES if FAMILIES[name].position_table])
def test_positions_beyond_the_task_are_dropped_without_loss(family):
    model = tiny.model(family)
    before = logits(model, family)
    model.edit([POSITIONS])
    assert torch.equal(logits(model, family), before)


@pytest.mark.parametrize("family", tiny.able("vocabulary"))
def test_trimming_keeps_the_answers_for_kept_tokens(family):
    model = tiny.model(family)
    before = logits(model, family)
    model.edit([VOCABULARY])
    assert torch.equal(logits(model, family), before)


@pytest.mark.parametrize("family", sorted(set(tiny.FAMILY_NAMES) - set(tiny.able("word_table"))))
def test_a_scaled_word_table_is_not_factorised(family):
    with pytest.raises(InputError, match="multiplies the vectors by a constant"):
        tiny.model(family).edit([TABLE])


def test_heads_take_their_own_projections_of_positions_with_them():
    """DeBERTa-v2 without shared projections: pruned equals gated, and what is left of the projections is theirs."""
    config = tiny.CONFIGS["deberta-v2"]()
    config.share_att_key = False
    torch.manual_seed(0)
    whole = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in whole.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    cut = copy.deepcopy(whole)
    KeepHeads(kept=((0, 2),) * 4).apply(cut)
    batch = tiny.batch("deberta-v2")
    gates = [torch.tensor([[1.0, 0.0, 1.0, 0.0]])] * 4
    with torch.no_grad(), gated([whole.get_submodule(site.output) for site in attention_sites(whole)], gates, 8):
        masked = logits_of(whole, batch)
    with torch.no_grad():
        assert torch.allclose(logits_of(cut, batch), masked, atol=1e-5)
    rows = [*range(8), *range(16, 24)]
    for name in ("pos_key_proj", "pos_query_proj"):
        old, new = (getattr(network.deberta.encoder.layer[1].attention.self, name).weight for network in (whole, cut))
        assert torch.equal(new, old[rows])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (KeepBlocks(kept=(0, 4)), "from 0 to 3"),
        (KeepBlocks(kept=(2, 1)), "ascending"),
        (KeepHeads(kept=((0,),) * 3), "3 sites in the edit, 4 in the network"),
        (KeepHeads(kept=((4,), (0,), (0,), (0,))), "block 0: kept \\[4\\]"),
        (KeepNeurons(kept=((),) * 4), "block 0: kept \\[\\]"),
        (KeepVocabulary(kept=(1, 2, 3)), "pad_token_id 0"),
        (KeepPositions(length=25), "25 rows asked for, the table has 24"),
        (FactorizeWordTable(rank=30), "saves nothing"),
    ],
)
def test_an_edit_that_does_not_fit_says_so(edit, message):
    with pytest.raises(InputError, match=message):
        tiny.model("bert").edit([edit])


def test_structure_cannot_change_after_quantisation():
    model = tiny.model("bert")
    model.edit([QUANTIZE])
    with pytest.raises(InputError, match="before that edit"):
        model.edit([NEURONS.model_copy(update={"kept": ((0,),) * 4})])


def test_svd_is_the_best_approximation_and_exact_at_full_rank():
    weight = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(weight.double())
    errors = []
    for rank in range(1, 13):
        left, right = truncated_svd(weight, rank)
        error = float((weight - left @ right.T).double().norm() ** 2)
        assert error == pytest.approx(float((singular[rank:] ** 2).sum()), rel=1e-4, abs=1e-8)
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    assert torch.allclose(left @ right.T, weight, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(3, 8, 8), (1, 5, 4), (9, 4, 4), (6, 6, 2), (4, 6, 0)])
def test_more_directions_than_the_matrix_has_are_zeros(rows, columns, rank):
    """A small vocabulary, repeated rows, or nothing but zeros; and a training can use what is left over."""
    torch.manual_seed(0)
    weight = torch.randn(rows, rank) @ torch.randn(rank, columns)
    true_rank = min(rows, rank)
    for asked in range(1, columns + 1):
        left, right = truncated_svd(weight, asked)
        assert left.shape == (rows, asked) and right.shape == (columns, asked)
        assert bool(torch.isfinite(left).all()) and bool(torch.isfinite(right).all())
        if asked >= true_rank:
            assert torch.allclose(left @ right.T, weight, atol=1e-5)
        assert (left[:, true_rank:] == 0).all() and (right.norm(dim=0) > 0).all()
        assert float(left.abs().max()) <= 10 * float(weight.abs().max()) + 1e-6


def test_a_model_with_several_ends_of_texts_keeps_all_of_them():
    model = tiny.model("llama")
    model.network.config.eos_token_id = [2, 5]
    model.network.config.pad_token_id = model.network.config.bos_token_id = 2
    kept = tuple(number for number in range(model.network.config.vocab_size) if number not in (3, 4))
    KeepVocabulary(kept=kept).apply(model.network)
    assert model.network.config.eos_token_id == [2, 3]
    with pytest.raises(InputError, match="eos_token_id 3 is not among the kept tokens"):
        KeepVocabulary(kept=(0, 1, 2, 4)).apply(model.network)
