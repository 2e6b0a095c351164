"""What is written down must be what is true."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.pages import markdown
from benchmarks.readme import figures, present, with_figures
from benchmarks.results import FOLDER, Rows, load
from lissom.cli import app
from lissom.models.capabilities import TITLES, families_page, families_table, limit_of
from lissom.models.families import FAMILIES
from lissom.reference import params_reference

ROOT = Path(__file__).parents[2]


def test_the_reference_of_params_is_current():
    assert (ROOT / "docs/params.md").read_text() == params_reference() + "\n"


def test_the_table_of_families_is_current():
    """`lissom families > docs/families.md` renews it."""
    page = CliRunner().invoke(app, ["families"]).stdout
    assert (ROOT / "docs/families.md").read_text() == page == families_page() + "\n"
    for model_type, row in ((line.split("`")[1], line) for line in families_table().splitlines() if line[:3] == "| `"):
        refused = sum(limit_of(FAMILIES[model_type], technique) is not None for technique in TITLES)
        assert row.count("yes") == len(TITLES) - refused


def test_every_key_is_explained():
    for line in params_reference().splitlines():
        if line.startswith("| `"):
            assert line.split("|")[3].strip(), line


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("benchmark", present(), ids=lambda benchmark: benchmark.name)
def test_every_row_tells_where_it_comes_from(benchmark):
    result = load(benchmark)
    assert result["rows"]
    for row in result["rows"]:
        place = result["environments"][row["environment"]]
        assert place["machine"]["cpu"] and place["machine"]["cpu_flags"] and place["versions"]["torch"]
        assert re.fullmatch(r"[0-9a-f]{40}", row["commit"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"])
        assert (row["seed"] is None) == (row.get("seeds") is not None)


@pytest.mark.parametrize("benchmark", present(), ids=lambda benchmark: benchmark.name)
def test_results_are_told_for_the_present_code(benchmark):
    """After a change of code that was measured, its figures are old: `python -m benchmarks.readme` says so."""
    result = load(benchmark)
    assert json.loads((FOLDER / f"{benchmark.name}.json").read_text()) == result
    assert (FOLDER / f"{benchmark.name}.md").read_text() == markdown(benchmark, Rows(benchmark, result), result)


def test_all_results_belong_to_a_benchmark():
    assert {path.stem for path in FOLDER.glob("*.json")} == {benchmark.name for benchmark in present()}


def test_the_readme_tells_what_the_benchmarks_measured():
    """`python -m benchmarks.readme` renews it."""
    readme = (ROOT / "README.md").read_text()
    assert with_figures(readme) == readme
    assert {"headline", "pipeline", "training", "trust"} <= {benchmark.name for benchmark in present()}


@pytest.mark.parametrize("name", ["headline", "pipeline", "training", "trust"])
def test_the_readme_says_which_figures_are_old(name, tmp_path):
    """Rows of the present code are no longer said to be old, and those of another code are."""
    benchmark = next(item for item in present() if item.name == name)
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    ages = {}
    for code in ("present", "0" * 16):
        result = json.loads((tmp_path / f"{name}.json").read_text())
        for row in result["rows"]:
            row["code"] = benchmark.code(row["key"]) if code == "present" else code
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
        line = next(line for line in figures(tmp_path).splitlines() if f"results/{name}.md" in line)
        ages[code] = "(measured on an earlier version)" in line
        assert "AMD EPYC" in line and " seed" in line
    assert ages == {"present": False, "0" * 16: True}


def test_python_in_the_docs_compiles():
    for page in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
            compile(block, page.name, "exec")
