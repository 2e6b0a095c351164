"""`make technique`: what it writes is sound, its tests fail until the technique is written, and pass then."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """The part of a checkout that techniques live in."""
    for name in ("lissom", "scripts", "docs", "tests/unit"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(checkout, *command):
    environment = {"PATH": "", "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, capture_output=True, text=True
    )  # fmt: skip


def test_the_skeletons_of_every_family_are_sound(checkout):
    for family in ("distill", "prune", "factorize", "quantize"):
        written = run(checkout, "scripts/technique.py", family, "head_entropy")
        assert written.returncode == 0, written.stderr
        assert f"lissom/{family}/head_entropy.py" in written.stdout
        if family != "distill":  # one test file per name: make room for the next family's
            (checkout / "tests/unit/test_head_entropy.py").rename(checkout / f"tests/unit/test_{family}_entropy.py")
    reference = (checkout / "docs/params.md").read_text()
    assert reference.count("### `method: head_entropy`") == 4
    assert "### `method: first_order`" in reference
    linted = run(checkout, "-m", "ruff", "check", "lissom", "scripts")
    assert linted.returncode == 0, linted.stdout
    assert run(checkout, "-m", "ruff", "format", "--check", "lissom", "tests").returncode == 0


def test_its_tests_fail_until_the_technique_is_written(checkout):
    assert run(checkout, "scripts/technique.py", "prune", "entropy").returncode == 0
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_entropy.py", "-k", "[bert]")
    failed = run(checkout, *tests)
    assert failed.returncode == 1 and "NotImplementedError: entropy" in failed.stdout
    technique = checkout / "lissom/prune/entropy.py"
    body = technique.read_text().partition("    raise NotImplementedError")[0]
    technique.write_text(body + "    return Recipe()\n")
    passed = run(checkout, *tests)
    assert passed.returncode == 0, passed.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [("first_order", "is there already"), ("Gates", "small letters"), ("fused", "is there already")],
)
def test_names_that_cannot_be_used_change_nothing(checkout, name, reason):
    before = {path: path.read_bytes() for path in checkout.rglob("*.py")}
    refused = run(checkout, "scripts/technique.py", "prune", name)
    assert refused.returncode == 1 and reason in refused.stderr and "Traceback" not in refused.stderr
    assert {path: path.read_bytes() for path in checkout.rglob("*.py")} == before
