"""Writes a new technique's skeleton and its test, and enters it where its family is listed.

`make technique FAMILY=prune NAME=entropy` runs it. What it writes passes ruff and mypy; its tests fail until the
function in the new file returns something.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lissom.errors import InputError

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Family:
    """Where the techniques of a family are listed; paths are relative to `lissom/<family>`."""

    noun: str
    """Ends the names of config classes: GatesPruning."""
    union: str
    """The type that all configs of the family make up."""
    configs: str
    """The file that gets the config class."""
    match: str
    """The file whose `match` calls the techniques."""


FAMILIES = {
    "distill": Family("Distillation", "DistillParams", "offline_config.py", "run.py"),
    "prune": Family("Pruning", "PruneMethod", "config.py", "plan.py"),
    "factorize": Family("Factorization", "FactorizeMethod", "config.py", "plan.py"),
    "quantize": Family("Training", "QuantizeMethod", "config.py", "plan.py"),
}

CONFIG = '''class {config}(Section):
    """TODO: what the method does, in one sentence (authors, year, arXiv number)."""

    method: Literal["{name}"]

    training: RecoveryParams{optional} = RecoveryParams()
    """Training of the compressed model against the teacher{null}."""


'''

PLAN = '''"""TODO: what the method does, with its formula.

TODO: authors, year, arXiv number, section or equation. Returns a recipe.
"""

from lissom.models.compressed import CompressedModel
from lissom.{family}.config import {config}
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: {config}) -> Recipe:
    """Return the recipe of the method; the model is not changed."""
    raise NotImplementedError("{name}: return Recipe(edits=..., calibrate=..., hooks=..., penalty=..., finish=...)")
'''

DISTILL = '''"""TODO: what the method does, with its formula.

TODO: authors, year, arXiv number, section or equation.
"""

from lissom.distill.material import Distilled, Material
from lissom.distill.{configs} import {config}


def distill(params: {config}, material: Material) -> Distilled:
    """Return a student that `material.train` has trained; the teacher is not changed."""
    raise NotImplementedError("{name}: return Distilled(student, ...)")
'''

TEST = '''"""TODO: the properties that the paper promises. What follows holds for every technique."""

import pytest
import torch

from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.{family}.config import {config}
from lissom.{family}.plan import plan
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in

PARAMS = {config}(method="{name}", training=SHORT)
families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@families
def test_planning_leaves_the_model_as_it_is(family, lesson):
    model, same = tiny.model(family), tiny.model(family)
    plan(model, lesson, PARAMS)
    assert model.manifest == same.manifest
    for name, tensor in same.network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[name]), name


@families
def test_the_saved_model_gives_the_same_answers(family, lesson, tmp_path):
    model, teacher, batch = tiny.model(family), LiveTeacher(tiny.model(family, 1).network), tiny.batch(family)
    compress(model, plan(model, lesson, PARAMS), lesson, teacher, PARAMS.training)
    save(model, tmp_path / "model")
    with torch.no_grad():
        before, after = (logits_of(each.network.eval(), batch) for each in (model, load(tmp_path / "model")))
    assert torch.equal(before, after)
'''


def main() -> None:
    """Write the files that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("name", help="as params.yaml names the method, such as entropy or head_entropy")
    arguments = parser.parse_args()
    try:
        paths = write(arguments.family, arguments.name)
    except InputError as error:
        sys.exit(f"error: {error}")
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, *paths], cwd=ROOT, check=True)
    explain = [sys.executable, "-c", "from lissom.reference import params_reference as text; print(text())"]
    with (ROOT / "docs/params.md").open("w") as reference:
        subprocess.run(explain, cwd=ROOT, check=True, stdout=reference)
    print("written:", *(path.relative_to(ROOT) for path in paths), "docs/params.md", sep="\n  ")
    tests = "tests/unit/distill/test_methods.py" if arguments.family == "distill" else paths[-1].relative_to(ROOT)
    print(f"next: write the method in {paths[0].relative_to(ROOT)}, and its properties as tests; then")
    print(f"  python -m pytest {tests} -k {arguments.name}\n  python -m lissom.pipelines dvc\n  make lint")


def write(family: str, name: str) -> list[Path]:
    """Write the technique and its test, extend the family's lists; return the paths, the technique first, test last.

    Raises:
        InputError: the name is no module's name, or is taken.
    """
    place, folder = FAMILIES[family], ROOT / "lissom" / family
    plan = family != "distill"
    technique = folder / f"{name}.py"
    tests = ROOT / ("tests/unit" if plan else "tests/unit/distill") / (f"test_{name}.py" if plan else "recipes.py")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise InputError(f"NAME={name}: small letters, digits and single underscores make a name, as in head_entropy")
    for path in (technique, tests) if plan else (technique,):
        if path.exists():
            raise InputError(f"{path.relative_to(ROOT)} is there already; take another NAME")
    config = "".join(part.capitalize() for part in name.split("_")) + place.noun
    configs, union, match = folder / place.configs, folder / "config.py", folder / place.match
    texts = {
        "family": family, "name": name, "config": config, "configs": configs.stem,
        "optional": " | None" if plan else "", "null": "; null skips it" if plan else "",
    }  # fmt: skip
    technique.write_text((PLAN if plan else DISTILL).format(**texts))
    text = configs.read_text()
    end = f"{place.union} = " if configs == union else None
    position = text.index(end) if end else len(text)
    text = text[:position].rstrip() + "\n\n\n" + CONFIG.format(**texts) + text[position:]
    configs.write_text(_with_import(text, "lissom.training.config", "RecoveryParams"))
    union.write_text(_with_member(union.read_text(), place.union, config, configs, family))
    match.write_text(_with_case(match.read_text(), family, name, config, configs))
    if plan:
        tests.write_text(TEST.format(**texts))
    else:  # every method that is listed there is tested alike
        entry = f'METHODS = {{\n    "{name}": {{"training": FAST}},\n'
        tests.write_text(tests.read_text().replace("METHODS = {\n", entry, 1))
    return [technique, *dict.fromkeys((configs, union, match)), tests]


def _with_member(text: str, union: str, config: str, configs: Path, family: str) -> str:
    """Return the module of a union with one member more; ruff sorts the imports."""
    discriminated = re.search(rf'^{union} = Annotated\[.*?(?=,\s*Field\(discriminator="method"\))', text, re.M | re.S)
    if discriminated:
        text = f"{text[: discriminated.end()]} | {config}{text[discriminated.end() :]}"
    else:
        both = rf'{union} = Annotated[\1 | {config}, Field(discriminator="method")]'
        text = re.sub(rf"^{union} = (\w+)$", both, text, flags=re.M)
        text = text.replace("from typing import ", "from typing import Annotated, ", 1)
    return text if configs.stem == "config" else _with_import(text, f"lissom.{family}.{configs.stem}", config)


def _with_case(text: str, family: str, name: str, config: str, configs: Path) -> str:
    call = f"{name}.distill(params, material)" if family == "distill" else f"{name}.plan(model, lesson, params)"
    text = _with_import(_with_import(text, f"lissom.{family}", name), f"lissom.{family}.{configs.stem}", config)
    return f"{text.rstrip()}\n        case {config}():\n            return {call}\n"


def _with_import(text: str, module: str, name: str) -> str:
    return re.sub(r"^(?=from )", f"from {module} import {name}\n", text, count=1, flags=re.M)


if __name__ == "__main__":
    main()
