"""Imports point downwards, edges are light, dependencies are declared, and dvc.yaml knows what every stage imports."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from lissom.components import specs
from lissom.params import load_params
from lissom.pipelines import dvc
from lissom.pipelines.imports import imports

ROOT = Path(__file__).parents[2]

# Bottom first, one row per package: a module imports from its own row and from rows above it.
LAYERS = [
    ["serving"],
    [
        "errors",
        "redaction",
        "ending",
        "section",
        "storage",
        "artifacts",
        "machine",
        "cluster",
        "console",
        "interval",
        "safe_yaml",
    ],
    ["data"],
    ["tasks"],
    ["attention"],
    ["models"],
    ["gguf"],
    ["parallel"],
    ["training"],
    ["distill"],
    ["prune"],
    ["factorize"],
    ["quantize"],
    ["export"],
    ["evaluate"],
    ["emissions"],
    ["report"],
    ["tracking"],
    ["explanation", "conflicts", "unusable_numbers", "params", "overrides", "reference"],
    ["components"],
    ["pipelines"],
    ["cli", "cli_language", "cli_models"],
]
SIDE_BY_SIDE = ("distill", "prune", "factorize", "quantize")
"""None of these imports another."""
# Configs are values without behaviour, and hooks are a base class: anybody may name them.
EVERYBODY = ("config", "hooks")


def layer(module: str) -> int:
    name = module.split(".")[1]
    return next(number for number, names in enumerate(LAYERS) if name in names)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


LIBRARY = sorted((ROOT / "lissom").rglob("*.py"))


@pytest.mark.parametrize("path", LIBRARY, ids=module_of)
def test_imports_point_down(path):
    module = module_of(path)
    for name in imports(path, ROOT):
        assert name.startswith("lissom"), f"the library imports {name}"
        if module.count(".") == 0 or name.count(".") == 0 or name.endswith(EVERYBODY):
            continue
        assert layer(name) <= layer(module), f"{module} imports {name} from a higher layer"
        beside = {item.split(".")[1] for item in (name, module)} & set(SIDE_BY_SIDE)
        assert len(beside) < 2, f"{module} imports {name} from beside it"


def test_every_package_has_its_row():
    packages = {path.name for path in (ROOT / "lissom").iterdir() if (path / "__init__.py").exists()}
    assert packages <= {name for names in LAYERS for name in names}


def test_serving_stands_on_nothing_but_itself():
    """It is copied into the registry, and runs without torch, transformers or pydantic."""
    for path in (ROOT / "lissom" / "serving").glob("*.py"):
        assert {name.split(".")[1] for name in imports(path, ROOT) if "." in name} <= {"serving"}, path


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


STAGES = [spec.name for spec in specs.STAGES]


def test_dvc_yaml_is_what_the_specs_say():
    """After a change of imports, specs or params: python -m lissom.pipelines dvc."""
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert written == dvc.pipeline(load_params(ROOT / "params.yaml"), ROOT)


@pytest.mark.parametrize(
    ("module", "runs", "does_not_run"),
    [
        ("lissom/distill/tinybert.py", {"distill"}, {"prepare", "teacher", "prune"}),
        ("lissom/prune/first_order.py", {"prune"}, {"teacher", "distill", "factorize", "quantize"}),
        ("lissom/quantize/int8.py", {"quantize"}, {"teacher", "distill", "prune", "factorize", "export"}),
        ("lissom/training/loop.py", {"teacher", "distill", "prune", "factorize", "quantize"}, {"prepare", "report"}),
        ("lissom/tracking/registry.py", {"register"}, {"teacher", "report", "evaluate"}),
        ("lissom/components/runner.py", set(), set(STAGES)),
    ],
)
def test_a_change_runs_what_uses_it_and_nothing_else(module, runs, does_not_run):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    watching = {name for name in STAGES if any(f"{module}/".startswith(f"{dep}/") for dep in stages[name]["deps"])}
    assert runs <= watching and not does_not_run & watching


def test_the_users_own_files_are_watched(tmp_path):
    (tmp_path / "params.yaml").write_text(
        "base: {model: 'dir:my base'}\ndata: {source: 'files:my data', transfer: more.tsv}\n"
    )
    stages = dvc.pipeline(load_params(tmp_path / "params.yaml"), ROOT)["stages"]
    assert {"my data", "more.tsv"} <= set(stages["prepare"]["deps"])
    assert all("my base" in stages[name]["deps"] for name in ("teacher", "distill"))
    assert "my base" not in stages["prune"]["deps"]


def test_a_change_of_the_gates_judges_again_and_measures_nothing():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert [name for name in STAGES if "gates" in stages[name].get("params", ())] == ["register"]


def test_a_missing_extra_is_named():
    from lissom.errors import advice_for

    assert "pip install 'lissom[tracking]'" in advice_for(ModuleNotFoundError("no", name="mlflow.pyfunc"))
    assert advice_for(ModuleNotFoundError("no", name="something_else")) is None
    code = "import sys; sys.modules['mlflow'] = None; sys.argv = ['lissom', 'predict', 'x']; from lissom.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "lissom[tracking]" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (["compile"], "kfp"),
        (["compile"], "kfp.kubernetes"),
        (["submit"], "kfp"),
        (["schedule", "--name=x", "--every=60"], "kfp_server_api"),
        (["status", "x"], "urllib3"),
    ],
)
def test_the_pipelines_commands_name_their_extra(command, missing, tmp_path):
    blocker = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
    (tmp_path / "sitecustomize.py").write_text(blocker)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "lissom.pipelines", *command]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'lissom[kubeflow]'" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_every_package_of_an_extra_is_named_with_it():
    from lissom.errors import advice_for

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    always = {re.match(r"[\w.-]+", item).group().lower().replace("_", "-") for item in project["dependencies"]}
    distributions = packages_distributions()
    for module in _outside_imports("lissom"):
        if not always & {item.lower().replace("_", "-") for item in distributions.get(module, [module])}:
            assert "lissom[" in advice_for(ModuleNotFoundError("no", name=module))


def _outside_imports(folder: str) -> set[str]:
    """First parts of all modules that are imported anywhere in a folder and are neither Python's nor the project's."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    own = {"lissom", "benchmarks", "tests", "scripts"}
    return names - set(sys.stdlib_module_names) - own


@pytest.mark.parametrize("folder", ["lissom", "scripts", "tests"])
def test_what_is_imported_is_declared(folder):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {re.match(r"[\w.-]+", item).group().lower().replace("_", "-") for item in declared}
    distributions = packages_distributions()
    for module in _outside_imports(folder):
        providers = {item.lower().replace("_", "-") for item in distributions.get(module, [module])}
        assert providers & names, f"{folder} imports {module}: declare one of {sorted(providers)} in pyproject.toml"
