"""Modules of the project that a file imports: for DVC's dependencies, tests of the layers, ages of measurements."""

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = ("lissom", "benchmarks", "tests")
# The frame (params, energy, runs, console) does not change what a stage computes.
FRAME = {
    "params",
    "conflicts",
    "unusable_numbers",
    "errors",
    "ending",
    "section",
    "artifacts",
    "machine",
    "console",
    "tracking",
    "emissions",
    "cluster",
    "cli",
}
FRAME_MODULES = {
    "lissom.parallel.launch", "lissom.training.stopping", "lissom.training.hooks", "lissom.components.runner",
    "lissom.components.arguments", "lissom.components.executor", "lissom.components.layout",
    "lissom.components.trainjob", "lissom.components.pipeline_run", "lissom.components.specs",
    "lissom.components.interface",
}  # fmt: skip
OWN_FRAME = {"register": {"tracking"}, "emissions": {"emissions"}, "report": {"emissions"}}
"""Packages that belong to the frame for other stages, but determine the results of these."""


def imports(path: Path, root: Path) -> set[str]:
    """Return the modules of the project that a file imports, except under `if TYPE_CHECKING`."""
    modules: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # lissom/components/stage.py imports lazily for some stages, which also import these modules themselves.
    lazy = path == root / "lissom" / "components" / "stage.py"
    for node in tree.body if lazy else _walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                below = root / name.replace(".", "/")
                modules.add(name if below.with_suffix(".py").exists() or below.is_dir() else node.module)
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    return {name for name in modules if name.split(".")[0] in PROJECT}


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree's nodes, except those below `if TYPE_CHECKING`."""
    yield node
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from _walk(child)


def used_by(stage: str, root: Path) -> set[str]:
    """Return the modules that the work of a stage imports, directly or indirectly, without configs and the frame."""
    modules: set[str] = set()
    queue = [root / "lissom" / "components" / stage / "work.py"]
    frame = FRAME - OWN_FRAME.get(stage, set())
    while queue:
        for name in imports(queue.pop(), root):
            parts = name.split(".")
            outside = len(parts) < 2 or name in FRAME_MODULES or parts[1] in frame
            if name in modules or outside or parts[-1].endswith("config"):
                continue
            modules.add(name)
            target = (root / name.replace(".", "/")).with_suffix(".py")
            queue.append(target if target.exists() else root / name.replace(".", "/") / "__init__.py")
    return modules


def code_of(stage: str, root: Path) -> list[str]:
    """Return the files and folders that a stage's result depends on: whole packages, and files of components."""
    paths = {f"lissom/components/{stage}"}
    for name in used_by(stage, root):
        parts = name.split(".")
        # Of the components, the stages' folders are entered by name above: what is shared by several stages is a file.
        module = Path(*parts[: 3 if parts[1] == "components" else 2])
        if (root / module).with_suffix(".py").exists():
            paths.add(f"{module}.py")
        elif parts[1] != "components":
            paths.add(str(module))
    return sorted(paths)
