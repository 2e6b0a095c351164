"""Rows of benchmarks: written one by one, replaced, marked as old; what they claimed before is kept."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.claims import claim
from benchmarks.pages import markdown
from benchmarks.results import Benchmark, Rows, load, record, renew


def page_of(benchmark: Benchmark, folder: Path) -> str:
    result = load(benchmark, folder)
    return markdown(benchmark, Rows(benchmark, result), result)


@pytest.fixture
def benchmark_(monkeypatch):
    codes = {"a": "code of a", "b": "code of b"}
    monkeypatch.setattr(Benchmark, "code", lambda _, key: codes[key["way"]])
    monkeypatch.setattr("benchmarks.results.commit", lambda: ("c" * 40, False))

    def claims(rows: Rows):
        return {"fast": claim(rows.take("ms", way="a"), "ms", "<= 9")}

    return SimpleNamespace(benchmark=Benchmark("early_exit", ("way",), claims), codes=codes)


def test_rows_are_written_one_by_one(benchmark_, tmp_path):
    benchmark = benchmark_.benchmark
    for way, seed, ms in (("a", 0, 1.0), ("b", 0, 5.0), ("a", 1, 2.0), ("a", 0, 3.0)):
        record(benchmark, {"way": way}, seed, {"ms": ms}, data="d", folder=tmp_path)
    rows = [(row["key"]["way"], row["seed"], row["figures"]["ms"]) for row in load(benchmark, tmp_path)["rows"]]
    assert rows == [("a", 0, 3.0), ("b", 0, 5.0), ("a", 1, 2.0)]
    row = json.loads((tmp_path / "early_exit.json").read_text())["rows"][0]
    assert row["commit"] == "c" * 40 and row["dirty"] is False and row["code"] == "code of a" and row["data"] == "d"
    assert row["date"] and row["environment"] in load(benchmark, tmp_path)["environments"]


def test_rows_without_a_digest_stay(benchmark_, tmp_path):
    benchmark = benchmark_.benchmark
    record(benchmark, {"way": "a"}, 0, {"ms": 7.0}, folder=tmp_path)
    path = tmp_path / "early_exit.json"
    result = json.loads(path.read_text())
    result["rows"].append({**result["rows"][0], "seed": 1})
    for row in result["rows"]:
        row["code"] = None
    path.write_text(json.dumps(result))
    record(benchmark, {"way": "a"}, 0, {"ms": 1.0}, folder=tmp_path)
    rows = load(benchmark, tmp_path)["rows"]
    assert [row["figures"]["ms"] for row in rows] == [7.0, 7.0, 1.0]
    assert load(benchmark, tmp_path)["claims"]["fast"]["value"] == 1.0, "old rows and present ones are not mixed"


def test_rows_of_other_code_are_marked(benchmark_, tmp_path):
    benchmark = benchmark_.benchmark
    for seed in range(3):
        record(benchmark, {"way": "a"}, seed, {"ms": 1.0 + seed / 10}, folder=tmp_path)
    record(benchmark, {"way": "b"}, 0, {"ms": 5.0}, folder=tmp_path)
    page = (tmp_path / "early_exit.md").read_text()
    assert "| old |" not in page and "| a | 1.1 ± 0.25 | 3 |" in page
    benchmark_.codes["a"] = "new code"
    renew(benchmark, tmp_path)
    lines = (tmp_path / "early_exit.md").read_text().splitlines()
    marked = [line.split("|")[1].strip() for line in lines if line.endswith("| old |")]
    assert marked == ["`fast`", "a"]
    assert json.loads((tmp_path / "early_exit.json").read_text())["claims"]["fast"]["old"] is True


def test_rows_of_settings_that_are_gone_are_old(benchmark_, tmp_path):
    benchmark = benchmark_.benchmark
    record(benchmark, {"way": "b"}, 0, {"ms": 5.0}, folder=tmp_path)
    del benchmark_.codes["b"]
    assert "| old |" in page_of(benchmark, tmp_path)


def test_means_that_were_told_as_a_whole_have_their_interval(benchmark_, tmp_path):
    benchmark = benchmark_.benchmark
    record(benchmark, {"way": "a"}, 0, {"ms": 5.0}, folder=tmp_path)
    result = json.loads((tmp_path / "early_exit.json").read_text())
    result["rows"][0] |= {"seed": None, "seeds": [0, 1, 2], "runs": 3, "deviations": {"ms": 1.0}, "code": None}
    (tmp_path / "early_exit.json").write_text(json.dumps(result))
    page = page_of(benchmark, tmp_path)
    assert "| a | 5 ± 2.5 | 3 |" in page and load(benchmark, tmp_path)["claims"]["fast"]["holds"] == "not measured"


def test_what_was_claimed_stays_when_its_rows_are_measured_again(benchmark_, tmp_path, monkeypatch):
    benchmark = benchmark_.benchmark
    for seed in range(3):
        record(benchmark, {"way": "a"}, seed, {"ms": 20.0 + seed}, folder=tmp_path)
    record(benchmark, {"way": "a"}, 0, {"ms": 21.0}, folder=tmp_path)  # by the same commit
    assert load(benchmark, tmp_path)["measured_before"] == []
    monkeypatch.setattr("benchmarks.results.commit", lambda: ("d" * 40, False))
    record(benchmark, {"way": "b"}, 0, {"ms": 5.0}, folder=tmp_path)  # a new row before those that replace others
    for seed in range(3):
        record(benchmark, {"way": "a"}, seed, {"ms": 1.0 + seed / 10}, folder=tmp_path)
    result = load(benchmark, tmp_path)
    (before,) = result["measured_before"]
    assert before["claim"] == "fast" and before["holds"] == "no" and before["commits"] == ["c" * 40]
    assert before["value"] == pytest.approx(64 / 3) and result["claims"]["fast"]["holds"] == "yes"
    page = (tmp_path / "early_exit.md").read_text()
    assert "## Measured before" in page and "| `fast` | 21.33 ms |" in page and "| ccccccc |" in page
