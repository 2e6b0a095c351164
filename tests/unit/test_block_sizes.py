"""`lissom inspect --blocks`, `lissom compare --blocks`, `lissom sensitivity`."""

import json

import pytest
from transformers import BartConfig, GPT2Config
from typer.testing import CliRunner

from lissom.artifacts import WEIGHTS
from lissom.cli import app
from lissom.data.config import DataParams
from lissom.data.prepare import prepare
from lissom.errors import InputError
from lissom.evaluate.sensitivity import CHANGES
from lissom.models.block_sizes import parts_at
from lissom.models.directory import save
from lissom.models.edits import GroupWeights, HalfWeights, LowRank, ProductQuantize
from tests.unit import tiny

PRODUCT = ProductQuantize(codes=16, ffn=4, attention=2, table=4)


@pytest.mark.parametrize(
    ("width", "blocks", "attention", "ffn"),
    [(768, 12, 9.01, 18.01), (1024, 24, 16.02, 32.02), (1280, 36, 25.02, 50.02)],
)
def test_blocks_of_gpt2(width, blocks, attention, ffn, tmp_path):
    """MiB of small, medium and large, from their configs alone."""
    GPT2Config(n_embd=width, n_layer=blocks, n_head=width // 64).save_pretrained(tmp_path)
    parts = parts_at(str(tmp_path))
    assert len(parts) == blocks + 2
    assert {(round(part.attention / 2**20, 2), round(part.ffn / 2**20, 2)) for part in parts[1:-1]} == {
        (attention, ffn)
    }
    embeddings = 4 * width * (50257 + 1024) / 2**20
    assert parts[0].other / 2**20 == pytest.approx(embeddings)


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
@pytest.mark.parametrize("edit", [None, GroupWeights(group=16), HalfWeights(), PRODUCT], ids=str)
def test_parts_add_up_to_the_file(family, edit, tmp_path):
    model = tiny.model(family)
    if edit is not None:
        model.edit([edit])
    save(model, tmp_path / "model")
    parts = parts_at(str(tmp_path / "model"))
    total = sum(part.attention + part.ffn + part.other for part in parts)
    header = 8 + int.from_bytes((tmp_path / "model" / WEIGHTS).read_bytes()[:8], "little")
    assert total == (tmp_path / "model" / WEIGHTS).stat().st_size - header
    assert all(min(part.attention, part.ffn, part.other) >= 0 for part in parts)


def test_two_models_side_by_side(tmp_path):
    model = tiny.model("bert")
    save(model, tmp_path / "before")
    model.edit([LowRank(ranks={"bert.encoder.layer.1.output.dense": 4})])
    save(model, tmp_path / "after")
    shown = CliRunner().invoke(app, ["compare", str(tmp_path / "before"), str(tmp_path / "after"), "--blocks"])
    assert shown.exit_code == 0 and "before and after" in shown.stdout and "→" in shown.stdout
    BartConfig(d_model=32, encoder_layers=2, decoder_layers=1, vocab_size=64).save_pretrained(tmp_path / "other")
    shown = CliRunner().invoke(app, ["compare", str(tmp_path / "before"), str(tmp_path / "other"), "--blocks"])
    names = {part.name for place in ("before", "other") for part in parts_at(str(tmp_path / place))}
    assert len(names) > len(parts_at(str(tmp_path / "before")))
    assert all(f" {name.split(',')[0]} " in shown.output.replace(",", " ") for name in names), "rows of both"
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "after"), "--blocks"])
    assert shown.exit_code == 0 and "block 3" in shown.stdout and "100.0%" in shown.stdout


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        parts_at(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"model .*: cannot be loaded"):
        parts_at(str(tmp_path))


def test_sensitivity_of_every_layer(tmp_path):
    model = tiny.model("bert")
    save(model, tmp_path / "model")
    rows = "".join(f"the nice film number {number}\t{tiny.TASK.labels[number % 3]}\n" for number in range(90))
    for folder in ("texts", "data"):
        (tmp_path / folder).mkdir()
    for split in ("train", "dev", "test"):
        (tmp_path / "texts" / f"{split}.tsv").write_text(f"text\tlabel\n{rows.replace('nice', split)}")
    prepare(DataParams(source=f"files:{tmp_path / 'texts'}"), tmp_path / "data")
    arguments = ["sensitivity", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--examples", "8"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "found.json")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["change"] for row in found} == set(CHANGES)
    assert len({row["layer"] for row in found}) == 4 * 6 + 2  # products of the blocks, the pooler, the word table
    by_change = {name: sum(row["divergence"] for row in found if row["change"] == name) for name in CHANGES}
    assert by_change["8 bits"] < by_change["4 bits"] < by_change["2 bits"]


def test_quantised_models_and_unknown_changes_are_refused(tmp_path):
    model = tiny.model("bert")
    model.edit([HalfWeights()])
    save(model, tmp_path / "model")
    result = CliRunner().invoke(app, ["sensitivity", str(tmp_path / "model")])
    assert isinstance(result.exception, InputError) and "quantised already" in str(result.exception)
    result = CliRunner().invoke(app, ["sensitivity", str(tmp_path / "model"), "--change", "6 bits"])
    assert isinstance(result.exception, InputError) and "there are: 8 bits" in str(result.exception)
