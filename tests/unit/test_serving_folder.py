"""A damaged exported folder is told in one line that names the file, before a wrong answer is given."""

import json
import random
import shutil
import subprocess
import sys

import pytest

from lissom.serving.classifier import OnnxClassifier
from lissom.serving.folder import DamagedFolderError, file_digest

LISSOM = [sys.executable, "-c", "from lissom.cli import main; main()"]


@pytest.fixture
def folder(plain_export, tmp_path):
    return shutil.copytree(plain_export, tmp_path / "model")


def change(folder, **entries):
    path = folder / "serving.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def mend(folder):
    """Write the digests of the files as they are: an attacker can do that, an accident cannot."""
    change(folder, sha256={name: file_digest(folder / name) for name in ("model.onnx", "tokenizer.json")})


def refused(folder, *says):
    with pytest.raises(DamagedFolderError) as error:
        OnnxClassifier(folder).predict(["a" * 40])
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in says), message


def test_the_tokenizer_takes_no_bytes_for_layout(folder):
    content = (folder / "tokenizer.json").read_text()
    assert "\n" not in content and content == json.dumps(json.loads(content), ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_flipped_bits_are_found(folder, name):
    content = bytearray((folder / name).read_bytes())
    for place in random.Random(0).choices(range(len(content)), k=16):
        content[place] ^= 1 << place % 8
    (folder / name).write_bytes(content)
    refused(folder, name, "sha256")


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "serving.json"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    refused(folder, name, "no such file")


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\x07 no graph", None], ids=["empty", "json", "bytes", "cut"])
def test_garbled_files(folder, name, content, mended):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    if mended:
        mend(folder)
    refused(folder, name)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|aa)+$", "(?=(a+))a*b\\1", "(", "(?P<x>a)(?P=x)"],
    ids=["nested", "either", "ahead", "open", "name"],
)
def test_regex_bombs_in_the_tokenizer(folder, pattern):
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps(spec))
    mend(folder)
    try:
        OnnxClassifier(folder).predict(["a" * 40 + "!"])
    except DamagedFolderError as error:
        assert "tokenizer.json" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "3", "{", "[" * 100_000, '{"a":' * 100_000, "\ud83d"])
def test_serving_json_of_another_kind(folder, content):
    (folder / "serving.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    refused(folder, "serving.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", 3),
        ("pair", "no"),
        ("max_length", -1),
        ("max_length", 10**400),
        ("max_length", 1.5),
        ("max_length", True),
        ("pad_id", -1),
        ("pad_id", 2**40),
        ("labels", []),
        ("labels", ["a", "a", "b"]),
        ("labels", [1, 2, 3]),
        ("labels", ["a", "b"]),
        ("labels", None),
        ("inputs", []),
        ("inputs", ["input_ids", "else"]),
        ("inputs", [[]]),
        ("inputs", ["input_ids"]),
        ("speed", "fast"),
        ("speed", float("nan")),
        ("speed", 10**400),
        ("speed", 0.5),
        ("sha256", {}),
        ("sha256", {"model.onnx": 3}),
        ("sha256", None),
    ],
)
def test_entries_of_serving_json_of_a_wrong_type(folder, name, value):
    change(folder, **{name: value})
    refused(folder, "serving.json")


@pytest.mark.parametrize("command", [["serve", "--model"], ["predict", "a film", "--model"]])
def test_the_commands_tell_it_in_one_line(folder, command):
    (folder / "model.onnx").write_bytes(b"no graph")
    done = subprocess.run([*LISSOM, *command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "model.onnx" in done.stderr and "Traceback" not in done.stderr and "LISSOM_DEBUG" not in done.stderr


def test_half_a_surrogate_pair_is_the_texts_fault(plain_export):
    with pytest.raises(ValueError, match="surrogate") as error:
        OnnxClassifier(plain_export).predict(["a \ud800 b"])
    assert not isinstance(error.value, DamagedFolderError)
