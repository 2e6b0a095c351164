"""What is written down must be what is true."""

import json
import re
from pathlib import Path

import pytest

from lissom.reference import params_reference

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks/results").glob("*.json"))


def test_the_reference_of_params_is_current():
    assert (ROOT / "docs/params.md").read_text() == params_reference() + "\n"


def test_every_key_is_explained():
    for line in params_reference().splitlines():
        if line.startswith("| `"):
            assert line.split("|")[3].strip(), line


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_tell_machine_versions_and_bars(path):
    result = json.loads(path.read_text())
    assert result["machine"]["cpu"] and result["machine"]["cpu_flags"] and result["versions"]["torch"]
    assert len(result["commit"]) == 40 and result["seeds"] and result["rows"]
    for outcome in result["claims"].values():
        sign, number = outcome["bar"].split()
        assert outcome["holds"] == (
            outcome["value"] >= float(number) if sign == ">=" else outcome["value"] <= float(number)
        )


def test_the_readme_tells_what_the_benchmarks_measured():
    from benchmarks.readme import with_figures

    readme = (ROOT / "README.md").read_text()
    assert with_figures(readme) == readme
    assert {"headline", "pipeline", "training"} <= {path.stem for path in RESULTS}


def test_python_in_the_docs_compiles():
    for page in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
            compile(block, page.name, "exec")
