"""Imports point downwards, edges are light, and dvc.yaml knows what every stage imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

# Bottom first: a folder imports only from rows above its own, or within its row.
LAYERS = [
    ["errors", "section", "artifacts", "machine", "cluster"],
    ["data", "models", "training", "parallel", "console", "serving"],
    ["distill", "prune", "factorize", "quantize"],
    ["export"],
    ["evaluate"],
    ["emissions"],
    ["report"],
    ["tracking"],
    ["params", "reference", "cli"],
]
# Configs are values without behaviour, and hooks are a base class: anybody may name them.
EVERYBODY = ("config", "hooks")


def layer(module: str) -> int:
    name = module.split(".")[1]
    return next(number for number, names in enumerate(LAYERS) if name in names)


def imports(path: Path) -> set[str]:
    """Modules of the project that a file imports anywhere in it."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    # The frame's lazy imports run for stages that use them, and those import the same by themselves.
    frame = path.parent == ROOT / "components" and path.name in ("stage.py", "layout.py")
    nodes = tree.body if frame else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(
                name
                if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()
                or (ROOT / name.replace(".", "/")).is_dir()
                else node.module
                for name in names
            )
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.split(".")[0] in ("lissom", "components", "pipelines")}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


LIBRARY = sorted((ROOT / "lissom").rglob("*.py"))


@pytest.mark.parametrize("path", LIBRARY, ids=module_of)
def test_imports_point_down(path):
    module = module_of(path)
    for name in imports(path):
        assert name.startswith("lissom"), f"the library imports {name}"
        if module.count(".") == 0 or name.count(".") == 0 or name.endswith(EVERYBODY):
            continue
        assert layer(name) <= layer(module), f"{module} imports {name} from a higher layer"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "lissom",
        "lissom.params",
        "lissom.cli",
        "lissom.artifacts",
        "lissom.tracking.runs",
        "lissom.report.ledger",
        "lissom.report.tables",
        "lissom.emissions.payback",
        "lissom.serving.classifier",
        "lissom.parallel.simulator",
        "lissom.parallel.launch",
    ],
)
def test_edges_do_not_load_torch(module):
    heavy = run(
        f"import sys, {module}; print([name for name in ('torch', 'transformers', 'mlflow') if name in sys.modules])"
    )
    assert heavy == "[]"


# The frame (params, energy, runs, console) does not change what a stage computes.
FRAME = {"params", "errors", "section", "artifacts", "machine", "console", "tracking", "emissions", "cluster", "cli"}
FRAME_MODULES = {"lissom.parallel.launch", "lissom.training.stopping"}


def stage_imports(stage: str) -> set[str]:
    """Folders that a stage imports, directly or not, through the project's modules."""
    seen, queue = set(), [ROOT / "components" / stage / "__main__.py"]
    while queue:
        path = queue.pop()
        for name in imports(path):
            if name in seen:
                continue
            seen.add(name)
            if name.split(".")[1] in FRAME or name in FRAME_MODULES:
                continue
            target = (ROOT / name.replace(".", "/")).with_suffix(".py")
            queue.append(target if target.exists() else ROOT / name.replace(".", "/") / "__init__.py")
    return seen


@pytest.mark.parametrize("stage", sorted(path.parent.name for path in (ROOT / "components").glob("*/__main__.py")))
def test_dvc_depends_on_every_folder_that_a_stage_imports(stage):
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    listed = {dep for dep in pipeline[stage]["deps"] if dep.startswith("lissom/")}
    needed = set()
    for name in stage_imports(stage):
        parts = name.split(".")
        if parts[0] == "lissom" and len(parts) > 1 and not name.endswith("config") and name not in FRAME_MODULES:
            needed.add(f"lissom/{parts[1]}")
    needed -= {f"lissom/{name}" for name in FRAME}
    assert needed <= listed, f"{stage} imports {sorted(needed - listed)}"
    folders = {path.name for path in (ROOT / "lissom").iterdir() if path.is_dir()}
    assert {dep.split("/")[1] for dep in listed} <= folders


def test_a_missing_extra_is_named():
    from lissom.errors import advice_for

    assert "pip install 'lissom[tracking]'" in advice_for(ModuleNotFoundError("no", name="mlflow.pyfunc"))
    with pytest.raises(ModuleNotFoundError):
        advice_for(ModuleNotFoundError("no", name="something_else"))
    code = "import sys; sys.modules['mlflow'] = None; sys.argv = ['lissom', 'predict', 'x']; from lissom.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "lissom[tracking]" in done.stderr and "Traceback" not in done.stderr
