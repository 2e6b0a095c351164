"""Thousands of damaged inputs: each is loaded or told in one clear error, in bounded memory.

All run in one child process with a limit on its address space. `LISSOM_FUZZ=10` makes ten times as many.
"""

import copy
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import lissom
from lissom.serving.folder import file_digest
from lissom.serving.memory import peak_bytes
from tests.unit import tiny

COUNTS = {
    "manifest": 200,
    "serving": 500,
    "params": 900,
    "override": 900,
    "header": 600,
    "tokenizer": 300,
    "graph": 200,
}
MOST_BYTES = 12 * 2**30
"""Of address space, of which torch and onnxruntime reserve a part without touching it."""
MOST_RESIDENT = 1500 * 2**20
VALUES = [
    None, True, False, 0, -1, 1, 2, 7, 10**9, -(10**9), 10**400, 1.5, 1e308, "", "a", "\x00", "a" * 10_000, "\u202e", "../../etc/passwd",
    "(a+)+$", [], {}, [[]], [None], {"": {}}, {"a": 1}, [1] * 100, "NaN", "lissom_static", "gpt2", "llama",
]  # fmt: skip
SNIPPETS = [
    "[", "{", "}", "]", ":", "*a", "&a ", "<<: ", "!!python/object:os.system x", "!!timestamp x", "\t", "\x00", "- ", "? ", "|", ">", "'", '"', "%",
    "9" * 5000, "2024-13-45", ".inf", ".nan", "null", "~", "\ud7ff", "---\n", "...\n", "=", "!!binary x", "0x", "1:2:3", "@", "`", "#",
]  # fmt: skip


def paths(value, here=()):
    yield here
    if isinstance(value, dict):
        for key, part in value.items():
            yield from paths(part, (*here, key))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from paths(part, (*here, place))


def mutate_value(chance, value):
    """Change one to three places of a JSON value: another value, a copy from elsewhere, or gone."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.randint(1, 3)):
        places = [place for place in paths(value) if place]
        if not places:
            return value
        *path, last = chance.choice(places)
        inner = value
        for step in path:
            inner = inner[step]
        kind = chance.random()
        if kind < 0.6:
            inner[last] = copy.deepcopy(chance.choice(VALUES))
        elif kind < 0.8:
            del inner[last]
        elif isinstance(inner, dict):
            inner[f"{last}x"] = inner.pop(last)
        else:
            inner.append(copy.deepcopy(inner[last]))
    return value


def mutate_bytes(chance, content):
    content = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place, kind = chance.randrange(len(content) + 1), chance.random()
        if kind < 0.5 and place < len(content):
            content[place] ^= 1 << chance.randrange(8)
        elif kind < 0.7:
            content[place:place] = chance.randbytes(chance.randint(1, 9))
        elif kind < 0.85:
            del content[place : place + chance.randint(1, 99)]
        else:
            del content[max(1, place) :]
    return bytes(content)


def mutate_text(chance, text):
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(text) + 1)
        text = text[:place] + chance.choice(SNIPPETS) + text[place + chance.randint(0, 5) :]
    return text


def mutate_json(chance, value):
    """Return the bytes of a changed JSON value; one of four is no JSON any more."""
    if chance.random() < 0.25:
        return mutate_bytes(chance, json.dumps(value).encode())
    return json.dumps(mutate_value(chance, value)).encode()


def mend_export(folder):
    serving = json.loads((folder / "serving.json").read_text())
    serving["sha256"] = {name: file_digest(folder / name) for name in ("model.onnx", "tokenizer.json")}
    (folder / "serving.json").write_text(json.dumps(serving))


def trials(kind, model, exported, scratch, chance):
    """Return a function that makes one damaged input of a kind and tries to load it."""
    from lissom.overrides import apply_override
    from lissom.params import check_params, load_params
    from lissom.serving.classifier import OnnxClassifier

    originals = {path: path.read_bytes() for folder in (model, exported) for path in folder.iterdir() if path.is_file()}
    recipe = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
    manifest = json.loads(originals[model / "lissom.json"])

    def write(path, content, load):
        path.write_bytes(content)
        try:
            return load()
        finally:
            for changed in (path, model / "lissom.json", exported / "serving.json"):
                changed.write_bytes(originals[changed])

    def load_header():
        manifest_now = manifest | {"weights_sha256": file_digest(model / "model.safetensors")}
        (model / "lissom.json").write_text(json.dumps(manifest_now))
        lissom.load(model)

    def header():
        content = originals[model / "model.safetensors"]
        (length,) = struct.unpack("<Q", content[:8])
        head = mutate_json(chance, json.loads(content[8 : 8 + length]))
        size = chance.choice([0, 1, length, 2**63, 2**64 - 1]) if chance.random() < 0.1 else len(head)
        write(model / "model.safetensors", struct.pack("<Q", size) + head + content[8 + length :], load_header)

    def open_mended():
        mend_export(exported)
        OnnxClassifier(exported, 1).predict(["the film was good", "a" * 40 + "!"])

    def params():
        path = scratch / "params.yaml"
        path.write_text(mutate_text(chance, recipe), encoding="utf-8", errors="surrogatepass")
        load_params(path)

    def override():
        values = {"base": {"model": "dir:x"}, "data": {"source": "files:y"}, "prune": [{"method": "first_order"}]}
        key = chance.choice(
            ["data.source", "prune.0.heads", "distill.method", "prune", "teacher.epochs", "base", "variants"]
        )
        apply_override(values, mutate_text(chance, f"{key}={chance.choice(['x', '[1, 2]', '{a: b}', '0.5'])}"))
        check_params(values)

    def of_json(path, load):
        return lambda: write(path, mutate_json(chance, json.loads(originals[path])), load)

    graph = exported / "model.onnx"
    return {
        "manifest": of_json(model / "lissom.json", lambda: lissom.load(model)),
        "serving": of_json(exported / "serving.json", lambda: OnnxClassifier(exported, 1).predict(["the film"])),
        "params": params,
        "override": override,
        "header": header,
        "tokenizer": of_json(exported / "tokenizer.json", open_mended),
        "graph": lambda: write(graph, mutate_bytes(chance, originals[graph]), open_mended),
    }[kind]


def is_clear(error):
    """An error that a user can act on: of the two families that are shown as they are, in bounded length."""
    from lissom.errors import InputError
    from lissom.serving.answers import NonFiniteOutputError
    from lissom.serving.folder import DamagedFolderError

    return isinstance(error, InputError | DamagedFolderError | NonFiniteOutputError) and 0 < len(str(error)) < 30_000


def main(model, exported, scratch, times):
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    unclear, total, loaded = {}, 0, 0
    for kind, count in COUNTS.items():
        started = time.monotonic()
        chance = random.Random(f"{kind} 1")
        trial = trials(kind, Path(model), Path(exported), Path(scratch), chance)
        for _ in range(count * int(times)):
            total += 1
            try:
                trial()
                loaded += 1
            except BaseException as error:
                if not is_clear(error):
                    unclear.setdefault(f"{kind}: {type(error).__name__}: {str(error)[:200]}", kind)
        print(f"{kind}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    print(json.dumps({"unclear": list(unclear)[:40], "total": total, "loaded": loaded, "peak": peak_bytes()}))


def test_damaged_inputs_are_told_clearly_in_bounded_memory(plain_export, tmp_path):
    lissom.save(tiny.model("bert"), tmp_path / "model")
    exported = tmp_path / "exported"
    exported.mkdir()
    for path in plain_export.iterdir():
        (exported / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "tests.unit.test_fuzz", str(tmp_path / "model"), str(exported), str(tmp_path)]
    done = subprocess.run([*command, os.environ.get("LISSOM_FUZZ", "1")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["unclear"] == [], "\n".join(outcome["unclear"])
    assert outcome["total"] >= 3000 and 0 < outcome["loaded"] < outcome["total"]
    assert outcome["peak"] < MOST_RESIDENT


if __name__ == "__main__":
    main(*sys.argv[1:])
