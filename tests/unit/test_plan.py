"""The cost model of layouts: what it must say whatever its constants are."""

import pytest

from lissom.errors import InputError
from lissom.models.sizes import Anatomy, BlockAnatomy
from lissom.parallel.config import ParallelParams
from lissom.parallel.plan import Machine, Workload, estimate, explain, propose

GIGA = 1e9


def work(width: int, blocks: int, heads: int, batch: int = 256, length: int = 512) -> Workload:
    block = BlockAnatomy(name="block 0", heads=heads, neurons=4 * width, attention=4 * width**2, ffn=8 * width**2)
    matrices = 12 * width**2 * blocks
    anatomy = Anatomy(
        total=matrices + 30_000 * width, embeddings=30_000 * width, word_table=30_000 * width,
        attention=4 * width**2 * blocks, ffn=8 * width**2 * blocks, other=0, vocabulary=30_000, blocks=(block,) * blocks,
    )  # fmt: skip
    return Workload(anatomy, width, heads, batch, length)


def machine(devices: int = 8, nodes: int = 1, memory: float = 80 * GIGA) -> Machine:
    return Machine(devices, nodes, memory, 200e12, 200e9, 10e9, 20e-6)


BASE = work(768, 12, 12)


def test_a_small_model_gets_replicas():
    best = propose(BASE, machine())[0].params
    assert (best.data, best.tensor, best.pipeline) == (8, 1, 1)


def test_a_large_model_is_cut_within_nodes_and_piped_across():
    large = work(8192, 40, 64, batch=64, length=2048)  # 32 G parameters: 500 GB of state
    actual = propose(large, machine(64, 8, memory=200 * GIGA))
    assert actual[0].params.tensor * actual[0].params.pipeline > 1
    assert all(item.params.tensor <= 8 for item in actual)
    assert all(item.memory_bytes <= 0.9 * 200 * GIGA for item in actual)
    with pytest.raises(InputError, match=r"no layout fits 8 devices of 80.0 GB; .* needs [\d.]+ GB on each"):
        propose(large, machine())


def test_factors_that_do_not_divide_are_left_out():
    odd = work(768, 3, 3, batch=8)
    for item in propose(odd, machine(4)):
        assert item.params.tensor == 1 and item.params.pipeline <= 3 and item.params.parts <= 8


def test_estimates_follow_the_formulas():
    def of(**layout):
        return estimate(BASE, machine(), ParallelParams(**layout))

    piped, fuller = (of(pipeline=4, data=2, microbatches=m) for m in (4, 16))
    assert piped.bubble == pytest.approx(piped.compute * 3 / 4) and fuller.bubble == pytest.approx(
        fuller.compute * 3 / 16
    )
    assert of(data=8).compute == pytest.approx(of(tensor=4, data=2).compute)
    assert of(data=8, recompute=True).compute == pytest.approx(of(data=8).compute * 4 / 3)
    assert of(data=8, recompute=True).memory_bytes < of(data=8, microbatches=4).memory_bytes < of(data=8).memory_bytes
    assert of(data=8, shard=True).data == pytest.approx(1.5 * of(data=8).data)
    item = of(tensor=2, data=4)
    volume = 4 * 12 * (2 * 1 / 2) * (256 * 512 / 4) * 768 * 4 / 200e9
    assert item.tensor == pytest.approx(volume + 4 * 12 * 20e-6)


def test_the_reasons_name_every_factor_and_cost():
    text = explain(propose(BASE, machine()))
    assert "data 8 x tensor 1 x pipeline 1" in text.splitlines()[1]
    assert all(word in text.splitlines()[0] for word in ("compute", "bubble", "tensor", "pipeline", "data", "GB"))


def test_auto_is_a_word_of_params_and_is_explained(tmp_path, capsys):
    from lissom.models.directory import save
    from lissom.parallel.measuring import automatic
    from lissom.params import check_params
    from tests.unit import tiny

    params = check_params({"base": {"model": "dir:x"}, "data": {"source": "files:y"}, "parallel": "auto"})
    assert params.parallel == "auto"
    save(tiny.model("bert"), tmp_path / "model")
    chosen, reason = automatic(tmp_path / "model", 8, 16)
    assert chosen.world == 1 and "data 1 x tensor 1 x pipeline 1 = 1 processes on 1 devices" in reason


@pytest.mark.parametrize("name", ["marian", "t5", "bart", "llama"])
def test_auto_knows_bases_of_every_form(name, tmp_path):
    from lissom.models.config import BaseParams, NewModelParams
    from lissom.parallel.measuring import outline, workload

    new = outline(BaseParams(model=f"new:{name}", shape=NewModelParams(blocks=2, width=32, heads=2, neurons=64)))
    assert next(new.parameters()).is_meta and workload(new, 8, 16).width == 32
    new.config.save_pretrained(tmp_path)
    there = outline(BaseParams(model=f"dir:{tmp_path}"))
    assert sum(p.numel() for p in there.parameters()) == sum(p.numel() for p in new.parameters())
