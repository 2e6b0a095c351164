"""What DVC shows of a run, looked at as a user would: specs and marks of the plots, and figures of the metrics.

The workspace holds the files that stages write, without the stages.
"""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from lissom.artifacts import CONFUSION, HISTORY, POINTS, STEPS, SUMMARY, write_json
from lissom.params import check_params
from lissom.pipelines.dvc import write_dvc
from lissom.report.plot_data import confusion, curves, score_over_latency
from lissom.tasks.classification import Classification
from tests.pipelines.conftest import PARAMS, ROOT
from tests.pipelines.test_pipeline import CHROMIUM

vl_convert = pytest.importorskip("vl_convert", reason="no vl-convert-python: Vega for pages without network")

TASK = Classification(name="t", labels=("bad", "fine", "good"), pair=False, max_length=8)
SCORE, LOSS, DEV, CONFUSED = (
    "Score over latency", "Loss of the trainings", "Score on dev during the trainings", "Confusion of the final artefact",
)  # fmt: skip


def history(start: float, records: int = 3) -> list[dict[str, float]]:
    """As a training logs it: losses every ten steps, a score on dev at the end."""
    losses = [{"step": 10 * n, "epoch": n / 2, "loss": start / n, "learning_rate": 1e-3} for n in range(1, records + 1)]
    return [*losses, {"step": 10 * records, "epoch": records / 2, "dev_score": 0.8}] if records else []


class Views:
    def __init__(self, folder) -> None:
        self.folder = folder
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
        write_dvc(check_params(PARAMS), folder / "dvc.yaml", ROOT)
        for number, stage in enumerate(STEPS, 1):
            self.write(f"metrics/{stage}/{HISTORY}", curves(history(number)))
        steps = [(stage, 10.0 / number, 0.9 - number / 100) for number, stage in enumerate(STEPS, 1)]
        baselines = [("teacher, eager torch", 20.0, 0.9), ("teacher, plain int8", 5.0, 0.85)]
        self.write(f"metrics/report/{POINTS}", score_over_latency(steps, baselines))
        targets = np.asarray([0, 0, 0, 1, 1, 2])
        answers = np.eye(3, dtype=np.float32)[[0, 0, 2, 1, 1, 1]]
        self.write(f"metrics/report/{CONFUSION}", confusion(TASK.quality(answers, answers, targets, 5)))
        self.write(f"metrics/report/{SUMMARY}", {"accuracy": 0.9, "joules_per_1000_inferences": 1.6267})

    def write(self, name: str, values) -> None:
        write_json(self.folder / name, values)

    def commit(self) -> None:
        for command in (["add", "."], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]):
            subprocess.run(["git", *command], cwd=self.folder, check=True)

    def dvc(self, *arguments: str) -> str:
        done = subprocess.run(["dvc", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
        return done.stdout

    def specs(self, *arguments: str) -> dict[str, dict]:
        """Vega-Lite specs of the page by title; those without data are empty."""
        self.dvc("plots", *(arguments or ("show",)), "--out", "plots")
        page = (self.folder / "plots" / "index.html").read_text()
        found = map(json.loads, re.findall(r"var spec = (\{.*\});\n", page))
        return {spec["title"]["text"]: spec for spec in found if spec}


@pytest.fixture
def views(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    return Views(tmp_path)


def values(spec) -> list[dict]:
    return spec["data"]["values"]


def drawn(spec) -> dict[str, int]:
    """Marks of a spec, by Vega itself: items of the scene in an SVG, without those of axes and legends."""
    svg = vl_convert.vegalite_to_svg(json.dumps(spec), vl_version="5.8")
    groups = re.findall(r'<g class="mark-(\w+) role-mark[^"]*"[^>]*>(.*?)</g>', svg, re.S)
    counts: dict[str, int] = {}
    for kind, items in groups:
        counts[kind] = counts.get(kind, 0) + len(re.findall(r"<(?:path|text)\b", items))
    return counts


def test_all_plots_have_their_data(views):
    specs = views.specs()
    assert list(specs) == [SCORE, LOSS, DEV, CONFUSED]
    assert {row["variant"] for row in values(specs[SCORE])} == {*STEPS, "teacher, eager torch", "teacher, plain int8"}
    for title, field, rows in ((LOSS, "loss", 3), (DEV, "dev_score", 1)):
        stages = [row["filename"].split("/")[0] for row in values(specs[title]) if row[field] is not None]
        assert stages == [stage for stage in STEPS for _ in range(rows)]
    counts = {(row["actual"], row["predicted"]): row["count"] for row in values(specs[CONFUSED])}
    assert len(counts) == 9 and counts["bad", "bad"] == 2 and counts["bad", "good"] == 1 and counts["good", "fine"] == 1


def test_no_placeholder_is_left_and_every_mark_is_drawn(views):
    specs = views.specs()
    assert "<DVC_METRIC" not in json.dumps(specs)
    assert drawn(specs[LOSS]) == {"line": 5, "symbol": 15}
    assert drawn(specs[DEV]) == {"line": 5, "symbol": 5}
    assert drawn(specs[SCORE]) == {"line": 1, "symbol": 7}
    assert drawn(specs[CONFUSED]) == {"rect": 9, "text": 4}


def test_two_revisions_are_compared(views):
    views.commit()
    views.write(f"metrics/prune/{HISTORY}", curves(history(1.5, records=5)))
    specs = views.specs("diff", "HEAD")
    assert list(specs) == [SCORE, LOSS, DEV, CONFUSED]
    for spec in specs.values():
        assert {row["rev"] for row in values(spec)} == {"HEAD", "workspace"}
    assert drawn(specs[LOSS]) == {"line": 10, "symbol": 32}
    assert drawn(specs[CONFUSED])["rect"] == 18


def test_stages_without_training_and_tasks_without_labels_leave_the_rest(views):
    views.write(f"metrics/prune/{HISTORY}", curves([]))
    views.write(f"metrics/report/{CONFUSION}", [])
    specs = views.specs()
    assert drawn(specs[LOSS]) == {"line": 4, "symbol": 12} and drawn(specs[SCORE])["symbol"] == 7
    assert CONFUSED not in specs


def test_a_run_that_has_come_to_distillation_shows_its_curves(views):
    for stage in ("prune", "factorize", "quantize", "report"):
        shutil.rmtree(views.folder / "metrics" / stage)
    assert drawn(views.specs()[LOSS]) == {"line": 2, "symbol": 6}


def test_metrics_are_the_few_of_the_summary(views):
    shown = json.loads(views.dvc("metrics", "show", "--json"))
    assert list(shown[""]["data"]) == [f"metrics/report/{SUMMARY}"]
    assert "1.6267" in views.dvc("metrics", "show")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(views, tmp_path):
    views.specs()
    page = (views.folder / "plots" / "index.html").read_text()
    local = re.sub(r'<script src="https://cdn[^>]*></script>', "", page)
    as_svg = "const embed = vegaEmbed; window.vegaEmbed = (place, spec) => embed(place, spec, {renderer: 'svg'});"
    script = f"{vl_convert.javascript_bundle(vl_version='5.8')}\n{as_svg}"
    (views.folder / "plots" / "vega.js").write_text(script)
    place = views.folder / "plots" / "local.html"
    place.write_text(local.replace("<title>", '<script src="vega.js"></script><title>'))
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * 0.0.0.0",
         f"--user-data-dir={tmp_path / 'chromium'}", "--window-size=1280,2000", "--virtual-time-budget=8000", "--dump-dom", place.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Uncaught" not in done.stderr and "Error" not in "".join(re.findall("CONSOLE.*", done.stderr))
    assert done.stdout.count("<svg") >= 4
    for title in (SCORE, LOSS, DEV, CONFUSED, *STEPS, "teacher, eager torch", "share of the label"):
        assert f">{title}</text>" in done.stdout, title
    kinds = re.findall(r'class="mark-(\w+) role-mark', done.stdout)
    assert {"line", "symbol", "rect"} <= set(kinds)
