"""Benchmarks tell where their rows come from, judge claims by the worse bound, and know what is old."""

import subprocess
import sys
from operator import sub
from types import SimpleNamespace

import pytest
from scipy import stats

from benchmarks import attention, distilling, parallel, provenance
from benchmarks.claims import PerSeed, claim, over_seeds, paired, student_t
from benchmarks.provenance import ROOT, code_digest, commit
from benchmarks.readme import BENCHMARKS
from benchmarks.results import Rows, load
from benchmarks.workspace import read_params, with_seed
from lissom.params import Params

SCRIPT = '''"""Measures."""
from lissom.part import answer

NOTES = ("a note",)

def claims(rows):
    """Tell."""
    return {}

def measure():
    """Measure."""
    return answer()  # the figure
'''


def test_student_t_is_that_of_the_tables():
    assert [student_t(freedom) for freedom in range(1, 40)] == pytest.approx(
        [stats.t.ppf(0.975, freedom) for freedom in range(1, 40)]
    )


def test_the_interval_of_one_data_set_is_that_of_student():
    sample = [1.0, 2.0, 4.0]
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(sample))
    interval = over_seeds([sample])
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_differences_between_data_sets_are_no_chance():
    interval = over_seeds([[1.0, 1.1, 0.9], [9.0, 9.1, 8.9]])
    assert interval.value == pytest.approx(5) and interval.high - interval.low < 0.4


def test_figures_that_other_load_disturbed_are_not_claimed():
    result = load(attention.BENCHMARK, ROOT / "benchmarks" / "results")
    for row in result["rows"]:
        row["figures"]["disturbed"] = 1.0
    claims = attention.BENCHMARK.claims(Rows(attention.BENCHMARK, result))
    timed = [name for name in claims if "speedup" in name or "doubling" in name or "overhead" in name]
    assert len(timed) == 8 and all(claims[name]["seeds"] == 0 for name in timed)
    assert claims["imdb_1024_gain_points"]["seeds"] > 0  # an accuracy does not depend on load


def test_pairs_cancel_what_a_seed_does_to_both():
    one, other = PerSeed({0: 80.0, 1: 60.0, 2: 70.0}), PerSeed({0: 79.0, 1: 59.1, 2: 68.9, 3: 1.0})
    outcome = claim(paired(sub, one, other), "points", ">= 0")
    assert outcome["seeds"] == 3 and outcome["holds"] == "yes" and outcome["low"] > 0.7


@pytest.mark.parametrize(
    "values, bar, holds",
    [
        ([98.0, 98.1, 98.2], ">= 97.5", "yes"),
        ([97.0, 98.1, 99.2], ">= 97.5", "no"),  # the mean holds, the worse bound does not
        ([4.0, 4.1, 4.2], "<= 4.5", "yes"),
        ([4.0, 4.4, 4.4], "<= 4.5", "no"),
        ([99.0, 99.0], ">= 97.5", "not enough seeds"),
        ([], ">= 97.5", "not measured"),
        ([1.0, 2.0, 3.0], None, "no bar"),
    ],
)
def test_a_claim_is_held_by_its_worse_bound(values, bar, holds):
    assert claim(PerSeed(dict(enumerate(values))), "%", bar)["holds"] == holds


def test_a_data_set_without_runs_is_not_averaged_away():
    assert claim([PerSeed({0: 1.0, 1: 1.0, 2: 1.0}), PerSeed()], "points", ">= 0")["holds"] == "not measured"


def test_counts_need_no_seeds():
    outcome = claim(PerSeed({0: 4.0}), "files", "<= 6", exact=True)
    assert outcome["holds"] == "yes" and outcome["low"] is None


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for folder in ("benchmarks", "lissom", "lissom/components/quantize"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "benchmarks/speed.py").write_text(SCRIPT)
    (tmp_path / "lissom/part.py").write_text("def answer():\n    return 41\n")
    (tmp_path / "lissom/components/quantize/work.py").write_text("LEVELS = 256\n")

    def digest(settings=None, part=None):
        provenance._files.cache_clear()
        provenance._structure_digest.cache_clear()
        return code_digest(tmp_path / "benchmarks/speed.py", ["quantize"], settings, tmp_path, part=part)

    return SimpleNamespace(root=tmp_path, digest=digest)


@pytest.mark.parametrize(
    "file, before, after, changes",
    [
        ("benchmarks/speed.py", "return answer()", "return answer() + 1", True),
        ("lissom/part.py", "41", "42", True),
        ("lissom/components/quantize/work.py", "256", "128", True),
        ("benchmarks/speed.py", "# the figure", "# another comment", False),
        ("benchmarks/speed.py", '"""Measure."""', '"""Measure it."""', False),
        ("benchmarks/speed.py", "return {}", "return {1: 2}", False),  # of the claims
        ("benchmarks/speed.py", "a note", "another note", False),
        ("lissom/part.py", "return 41", "return (\n        41\n    )", False),
    ],
)
def test_the_digest_is_of_what_is_measured(tree, file, before, after, changes):
    first = tree.digest()
    text = (tree.root / file).read_text()
    assert before in text
    (tree.root / file).write_text(text.replace(before, after))
    assert (tree.digest() != first) is changes


def test_the_digest_knows_the_settings_of_its_row(tree):
    assert tree.digest({"epochs": 1}) == tree.digest({"epochs": 1}) != tree.digest({"epochs": 2})


def test_a_part_does_not_get_old_with_the_others(tree):
    part = tree.root / "lissom/part.py"
    first = tree.digest(part=part)
    script = tree.root / "benchmarks/speed.py"
    script.write_text(script.read_text().replace("return answer()", "return answer() + 1"))
    assert tree.digest(part=part) == first
    part.write_text(part.read_text().replace("41", "42"))
    assert tree.digest(part=part) != first


def test_a_tree_without_git_must_be_named(tmp_path, monkeypatch):
    monkeypatch.delenv("LISSOM_COMMIT", raising=False)
    with pytest.raises(SystemExit, match="LISSOM_COMMIT"):
        commit(tmp_path)
    monkeypatch.setenv("LISSOM_COMMIT", "d" * 40)
    assert commit(tmp_path) == ("d" * 40, None)


def test_a_changed_tree_is_dirty_and_results_do_not_count(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "code.py").write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "benchmarks/results/speed.json").write_text("{}")
    assert commit(tmp_path)[1] is False
    commit.cache_clear()
    (tmp_path / "code.py").write_text("2\n")
    assert commit(tmp_path)[1] is True


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_claims_are_made_of_any_rows_that_are_there(benchmark):
    """Rows come one by one; claims that lack some of theirs are told as not measured, and stop nobody."""
    result = load(benchmark)
    for count in range(len(result["rows"]) + 1):
        outcomes = benchmark.claims(Rows(benchmark, {**result, "rows": result["rows"][-count:] if count else []}))
        assert outcomes and all(outcome["holds"] == "not measured" or count for outcome in outcomes.values())


def test_layouts_are_not_compared_before_all_are_measured():
    rows = [row for row in load(parallel.BENCHMARK)["rows"] if row["key"]["part"] == "auto"]
    for count, holds in ((1, "not measured"), (4, "not enough seeds")):
        result = {"rows": rows[-count:], "environments": load(parallel.BENCHMARK)["environments"]}
        assert parallel.claims(Rows(parallel.BENCHMARK, result))["auto_regret"]["holds"] == holds


@pytest.mark.parametrize("name", distilling.recipes())
def test_recipes_make_the_updates_that_they_say(name):
    recipe = {**distilling.recipes()[name]}
    recipe.pop("transfer", None)
    times = recipe.get("times", 1)
    tables = {"train": range(3000), "transfer": range(1000)}
    params = distilling._params(recipe, SimpleNamespace(tables=tables), 300, 7)
    trainings = [getattr(params, field) for field in type(params).model_fields if field.endswith("training")]
    trainings = [training for training in trainings if training is not None and training.seed == 7]
    assert trainings
    if name != "lstm":  # whose augmentation adds texts
        assert sum(training.epochs for training in trainings) * 4000 / 32 == pytest.approx(300 * times)


@pytest.mark.parametrize("path", ["params.yaml", "benchmarks/params/sst2.yaml"])
def test_a_seed_is_that_of_all_trainings(path):
    values = read_params(ROOT / path)
    seeded = Params.model_validate(with_seed(values, 5))
    plain = Params.model_validate(values)
    assert seeded.teacher.seed == seeded.distill.training.seed == 5 and plain.teacher.seed == 0
    assert all(
        method.training.seed == 5 for stage in ("prune", "factorize", "quantize") for method in getattr(seeded, stage)
    )
    assert seeded.data == plain.data


def test_distillation_needs_the_library_alone():
    code = """
import sys
for name in ("dvc", "mlflow", "codecarbon", "ruamel", "sklearn", "scipy", "matplotlib"):
    sys.modules[name] = None
import benchmarks.distillation
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
