import json

import pytest
from safetensors.torch import load_file, save_file

import lissom
from lissom.errors import ModelFormatError
from lissom.models.directory import file_sha256
from lissom.models.edits import FactorizeWordTable
from lissom.serving.memory import peak_bytes
from tests.unit import tiny


@pytest.fixture
def saved(tmp_path):
    model = tiny.model("bert")
    model.edit([FactorizeWordTable(rank=8)])
    lissom.save(model, tmp_path / "model")
    return tmp_path / "model"


def change_manifest(folder, **changes):
    path = folder / "lissom.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_no_model_directory(tmp_path):
    with pytest.raises(ModelFormatError, match=r"no lissom.json"):
        lissom.load(tmp_path)


def test_truncated_weights(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelFormatError, match="truncated or was changed"):
        lissom.load(saved)


def test_truncated_weights_whose_digest_was_mended(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    change_manifest(saved, weights_sha256=file_sha256(weights))
    with pytest.raises(ModelFormatError, match="cannot be read"):
        lissom.load(saved)


@pytest.mark.parametrize(("version", "advice"), [(4, "update lissom"), (2, "make the model again"), (None, "again")])
def test_other_format_version(saved, version, advice):
    change_manifest(saved, format_version=version)
    with pytest.raises(ModelFormatError, match=advice):
        lissom.load(saved)


def test_missing_extra_and_misshapen_tensors_are_all_named(saved):
    weights = saved / "model.safetensors"
    state = load_file(weights)
    del state["classifier.bias"]
    state["stray"] = state["classifier.weight"].clone()
    state["classifier.weight"] = state["classifier.weight"][:, :5].clone()
    save_file(state, weights)
    change_manifest(saved, weights_sha256=file_sha256(weights))
    with pytest.raises(ModelFormatError) as error:
        lissom.load(saved)
    for part in ("missing: classifier.bias", "extra: stray", "shape of classifier.weight: [3, 5] in the file, [3, 32]"):
        assert part in str(error.value)


def test_an_edit_that_does_not_fit_the_config(saved):
    change_manifest(saved, edits=[{"kind": "keep_blocks", "kept": [0, 9]}])
    with pytest.raises(ModelFormatError, match="'keep_blocks' does not fit"):
        lissom.load(saved)


def test_an_unknown_edit(saved):
    change_manifest(saved, edits=[{"kind": "melt"}])
    with pytest.raises(ModelFormatError, match="melt"):
        lissom.load(saved)


def test_a_failed_save_leaves_the_old_model(saved, monkeypatch):
    before = (saved / "lissom.json").read_bytes()
    monkeypatch.setattr("lissom.models.directory.write_json", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        lissom.save(tiny.model("bert"), saved)
    assert (saved / "lissom.json").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def change_config(folder, **changes):
    values = json.loads((folder / "lissom.json").read_text())
    values["base_config"] |= changes
    (folder / "lissom.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_labels": 1_000_000_000},
        {"vocab_size": 90_000_000},
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 900},
        {"hidden_size": -12},
        {"hidden_size": "wide"},
        {"hidden_act": "nope"},
        {"num_attention_heads": 7},
        {"num_attention_heads": 0},
        {"intermediate_size": 10**400},
        {"model_type": None},
        {"model_type": "t5"},
        {"model_type": []},
        {"model_type": "gpt2"},
        {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_built_is_a_damaged_model(saved, changes):
    """One line, and no memory for what the file of weights does not hold."""
    change_config(saved, **changes)
    before = peak_bytes()
    with pytest.raises(ModelFormatError) as error:
        lissom.load(saved)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500
    assert peak_bytes() - before < 300 * 2**20


@pytest.mark.parametrize("name", ["lissom.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "[" * 100_000, '{"a":' * 1000 + "1" + "}" * 1000, "[]", "null", "\udcff"])
def test_other_content(saved, name, content):
    (saved / name).write_text(content, errors="surrogateescape")
    with pytest.raises(ModelFormatError) as error:
        lissom.load(saved)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff" * 8,
        b"\x08" + b"\0" * 7 + b"not json",
        b"\x10\x27" + b"\0" * 6 + b"[" * 10_000,
        (70).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'[:70],
    ],
)
def test_hostile_headers_of_the_weights(saved, header):
    weights = saved / "model.safetensors"
    weights.write_bytes(header)
    change_manifest(saved, weights_sha256=file_sha256(weights))
    with pytest.raises(ModelFormatError, match=r"model\.safetensors") as error:
        lissom.load(saved)
    assert "\n" not in str(error.value)


def test_the_config_does_not_tell_where_the_base_model_lay(tmp_path):
    model = tiny.model("bert")
    model.network.config._name_or_path = "/home/me/secret/base"
    lissom.save(model, tmp_path / "model")
    assert all(b"/home/me" not in path.read_bytes() for path in (tmp_path / "model").iterdir())
