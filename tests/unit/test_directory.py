import json

import pytest
from safetensors.torch import load_file, save_file

import lissom
from lissom.errors import ModelFormatError
from lissom.models.directory import file_sha256
from lissom.models.edits import FactorizeWordTable
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


@pytest.mark.parametrize(("version", "advice"), [(3, "update lissom"), (1, "make the model again"), (None, "again")])
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
