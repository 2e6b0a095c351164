"""The embedded data set *python-docs*, a binary classification of pairs: does a docstring describe a function?

Pairs consist of a signature, `module.qualified.name(arguments)`, and the first paragraph of a docstring, read from the
source of the interpreter's standard library; nothing is downloaded or imported. The functions are split first; then
each gets a negative pair with a docstring of the same module and split, so that nothing leaks between splits.
"""

import ast
import random
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lissom.data.splits import normalised
from lissom.data.tables import Row

MATCH, MISMATCH = "match", "mismatch"

_LEFT_OUT = {
    "test", "tests", "idlelib", "turtledemo", "site-packages", "lib2to3", "ensurepip", "pydoc_data",
    "distutils", "_pyrepl", "__phello__", "__pycache__",
}  # fmt: skip
_FEWEST_WORDS, _MOST_WORDS = 4, 40
_SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


class Function(NamedTuple):
    """A documented function of the standard library."""

    module: str
    signature: str
    doc: str


def functions(library: Path | None = None) -> list[Function]:
    """Return the documented functions below `library`, one per distinct docstring, in a stable order."""
    library = library or Path(sysconfig.get_paths()["stdlib"])
    by_doc: dict[str, Function] = {}
    signatures: set[str] = set()  # a function that is defined twice, under a condition, must not be in two splits
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if _LEFT_OUT.intersection(parts) or any(part.startswith("config-") for part in parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # templates that only look like Python
            continue
        for function in _documented(tree, module, module):
            key = normalised(function.doc)
            if key not in by_doc and function.signature not in signatures:
                by_doc[key] = function
                signatures.add(function.signature)
    return list(by_doc.values())


def read_splits(seed: int) -> dict[str, Iterator[Row]]:
    """Return the rows of train, dev and test: every function with its own and with a wrong docstring."""
    return {split: _pairs(members, seed) for split, members in _split(seed).items()}


def transfer_rows(count: int, seed: int) -> Iterator[Row]:
    """Yield `count` unlabelled pairs of train functions with other docstrings of their module, each pair once."""
    rng = random.Random(f"{seed}:transfer")
    groups = [group for group in _by_module(_split(seed)["train"]).values() if len(group) > 1]
    weights = [len(group) for group in groups]
    limit = sum(len(group) * (len(group) - 1) for group in groups)
    pairs: set[tuple[str, str]] = set()
    while len(pairs) < min(count, limit):
        function, partner = rng.sample(rng.choices(groups, weights)[0], 2)
        if (function.signature, partner.doc) not in pairs:
            pairs.add((function.signature, partner.doc))
            yield Row(function.signature, partner.doc, None)


@cache
def _split(seed: int) -> dict[str, list[Function]]:
    members = functions()
    random.Random(f"{seed}:split").shuffle(members)
    splits, start = {}, 0
    for split, share in _SHARES.items():
        end = start + round(share * len(members))
        splits[split] = members[start:end]
        start = end
    return splits


def _pairs(members: list[Function], seed: int) -> Iterator[Row]:
    rng = random.Random(f"{seed}:pairs")
    groups = _by_module(members)
    for function in members:
        partners = [partner for partner in groups[function.module] if partner is not function]
        if partners:  # a module with a single function in the split has no wrong docstring
            yield Row(function.signature, function.doc, MATCH)
            yield Row(function.signature, rng.choice(partners).doc, MISMATCH)


def _by_module(members: list[Function]) -> dict[str, list[Function]]:
    groups = defaultdict(list)
    for function in members:
        groups[function.module].append(function)
    return groups


def _documented(node: ast.AST, module: str, prefix: str) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = " ".join((ast.get_docstring(child) or "").split("\n\n")[0].split())
            special = child.name.startswith("__") and child.name.endswith("__")
            if not special and _FEWEST_WORDS <= len(doc.split()) <= _MOST_WORDS:
                yield Function(module, f"{prefix}.{child.name}({_arguments(child.args)})", doc)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _documented(child, module, f"{prefix}.{child.name}")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _documented(child, module, prefix)


def _arguments(arguments: ast.arguments) -> str:
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    names += [argument.arg for argument in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append(f"**{arguments.kwarg.arg}")
    return ", ".join(name for name in names if name not in ("self", "cls"))
