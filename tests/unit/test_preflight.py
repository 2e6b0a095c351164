"""What a later stage would stumble over is told before the first one works."""

import importlib.util
import json

import pytest

from lissom.components.preflight import preflight
from lissom.errors import InputError
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.params import check_params
from tests.unit.test_gguf import model_of

BERT = {
    "model_type": "bert",
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "vocab_size": 100,
    "max_position_embeddings": 24,
}


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / "config.json").write_text(json.dumps(BERT | changes))

    write()
    return write


def params(**sections):
    return check_params({"base": {"model": "dir:base", "max_length": 16}, "data": {"source": "files:data"}} | sections)


def test_what_fits_passes(base):
    preflight(params(distill={"method": "logits", "blocks": [0, 3]}, factorize={"method": "word_table", "rank": 24}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"distill": {"method": "logits", "blocks": [0, 4]}}, r"distill\.blocks: 4 does not exist.*0 to 3"),
        ({"factorize": {"method": "word_table", "rank": 25}}, r"factorize\.rank: 25 saves nothing on a 100 x 32.*largest: 24"),
        ({"base": {"model": "dir:base", "max_length": 25}}, r"base\.max_length: 25 is more than the base model's 24"),
        ({"base": {"model": "dir:nowhere"}}, "no folder"),
        ({"base": {"model": "new:llama", "shape": {"blocks": 2}}, "distill": {"method": "logits", "blocks": [0, 5]}}, r"distill\.blocks: 5 does not exist.*0 to 1"),
        ({"base": {"model": "new:t5"}, "distill": {"method": "sequence", "blocks": [0], "decoder_blocks": [7]}, "data": {"source": "files:data", "task": "translation"}}, r"distill\.decoder_blocks: 7 does not exist.*0 to 3"),
        ({"distill": {"method": "logits", "blocks": [0]}, "prune": {"method": "blocks", "blocks": 2}}, r"prune\.blocks: 2 blocks cannot be kept; there are 1 by then"),
        ({"prune": [{"method": "blocks", "blocks": 2}, {"method": "layer_drop", "blocks": 3}]}, r"prune\.blocks: 3 blocks cannot be kept; there are 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(base, sections, message):
    with pytest.raises(InputError, match=message):
        preflight(params(**sections))


def test_the_sizes_of_a_gguf_file_are_looked_at(base, tmp_path):
    model = model_of("llama")
    write_gguf(gguf_model(model), tmp_path / "base.gguf", FILE_TYPES["q8_0"])
    longest = model.network.config.max_position_embeddings
    of_file = {"model": "dir:base.gguf", "max_length": longest}
    language = {"source": "files:data", "task": "language_modeling"}
    blocks = {"method": "logits", "blocks": [0, 3], "training": {"loss": {"temperature": 1.0}}}
    preflight(params(base=of_file, data=language, factorize={"method": "none"}, distill=blocks))
    with pytest.raises(InputError, match=r"blocks: 9 does not exist.*\n.*is more than the base model's"):
        preflight(
            params(
                base={**of_file, "max_length": longest + 1}, data=language, factorize={"method": "none"},
                distill={**blocks, "blocks": [0, 9]},
            )
        )  # fmt: skip
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"base\.gguf cannot be read"):
        preflight(params(base=of_file, data=language, factorize={"method": "none"}, distill=blocks))


def test_all_problems_are_told_at_once(base):
    with pytest.raises(InputError, match="3 problems that a later stage would meet"):
        preflight(
            params(
                base={"model": "dir:base", "max_length": 99},
                distill={"method": "logits", "blocks": [0, 9]},
                factorize={"method": "word_table", "rank": 31},
            )
        )


def test_roberta_counts_positions_from_behind_the_padding_token(base):
    base(model_type="roberta", pad_token_id=1)
    preflight(params(base={"model": "dir:base", "max_length": 22}))
    with pytest.raises(InputError, match="22 positions"):
        preflight(params(base={"model": "dir:base", "max_length": 23}))


@pytest.mark.parametrize("config", ["", "[]", "{"])
def test_a_damaged_config_is_one_line(base, tmp_path, config):
    (tmp_path / "base" / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"config\.json"):
        preflight(params())


@pytest.mark.parametrize("package", ["mlflow", "codecarbon", "sklearn", "matplotlib"])
def test_a_missing_extra_of_a_later_stage_is_named(base, monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(InputError, match=rf"needs the package {package}: pip install 'lissom\["):
        preflight(params())
    preflight(params(), elsewhere=True)


def test_a_disk_that_is_too_small_is_told_with_the_missing_bytes(base, tmp_path, monkeypatch):
    (tmp_path / "base" / "model.safetensors").write_bytes(bytes(1_000_000))
    preflight(params())
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2_000_000}))
    with pytest.raises(InputError, match="artifacts: 2 MB are free, about 9 MB are needed, 7 MB are missing"):
        preflight(params())


def test_a_downloaded_model_of_the_hub_is_looked_at(tmp_path, monkeypatch):
    """In the cache as the hub's client lays it out: a folder per commit, and the names of branches beside."""
    commit = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(BERT))
    (snapshot / "model.safetensors").write_bytes(bytes(1_000_000))
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2_000_000}))
    preflight(params(base={"model": "hub:owner/other", "max_length": 99}))
    hub = {"model": "hub:owner/name", "max_length": 25}
    with pytest.raises(InputError, match=r"(?s)about 9 MB are needed.*base\.max_length: 25 is more than the base"):
        preflight(params(base=hub))


def test_a_base_model_of_another_machine_is_looked_at_there(base):
    preflight(params(base={"model": "dir:nowhere"}), elsewhere=True)
    with pytest.raises(InputError, match="does not exist"):
        preflight(params(distill={"method": "logits", "blocks": [0, 4]}), elsewhere=True)
