"""A workspace as a user has it: the repository's files, a tiny base model, a tiny task on pairs of texts."""

import contextlib
import copy
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from lissom.errors import ParamsError
from lissom.params import check_params
from lissom.pipelines.dvc import write_dvc
from tests import warm
from tests.unit import tiny

ROOT = Path(__file__).parents[2]

PARAMS = {
    "base": {"model": "dir:base", "max_length": 24},
    "data": {"source": "files:data", "text": "left", "text_pair": "right", "transfer": "data/unlabelled.tsv"},
    "teacher": {"epochs": 3, "learning_rate": 3e-3, "freeze_word_table": False, "precision": "float32"},
    "distill": {"method": "logits", "blocks": [0, 3], "training": {"epochs": 2, "learning_rate": 2e-3, "precision": "float32"}},
    "prune": {"method": "first_order", "neuron_multiple": 8, "training": {"epochs": 1, "learning_rate": 1e-3, "precision": "float32"}},
    "factorize": {"method": "word_table", "rank": 16, "training": {"epochs": 1, "learning_rate": 1e-3, "precision": "float32"}},
    "quantize": {"method": "int8", "training": {"epochs": 1, "learning_rate": 5e-4}},
    "parallel": {"data": 1},
    "export": {"int8_tolerance": 0.5, "label_agreement": 0.9},
    "evaluate": {"seconds": 0.2, "retries": 0},
    "emissions": {"repeats": 3, "seconds": 0.3},
    "tracking": {"experiment": "tiny"},
    "gates": {"max_score_drop": 0.2, "min_speedup": {}, "max_megabytes": 1},
}  # fmt: skip


class Workspace:
    """A folder with the repository's files in which commands are run."""

    def __init__(self, folder: Path, starts_warm: bool = True, threads: int | None = None) -> None:
        self.open(folder)
        if threads is not None:  # one is enough for tiny networks, and faster where tests share the cores
            self.env["OMP_NUM_THREADS"] = str(threads)
        files = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in files.stdout.splitlines():
            if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/results/")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        (folder / "dvc.lock").unlink(missing_ok=True)
        if starts_warm:
            start_warm(self.env)
        self.run("git", "init", "-q")
        self.write_params(PARAMS)
        write_base(folder / "base")
        write_data(folder / "data")

    def open(self, folder: Path) -> None:
        """Become the workspace in a folder, without a change to its files."""
        self.folder = folder
        self.env = os.environ | {
            "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder), "CI": "true", "COLUMNS": "200",
            "LISSOM_CHECKPOINT_SECONDS": "0",
        }  # fmt: skip
        for name in ("MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE"):  # bytecode beside the code, as users have it
            self.env.pop(name, None)

    def copied_to(self, folder: Path) -> "Workspace":
        """The same, as far as it has come, elsewhere: DVC skips there what is done. Its runs are its own."""
        left_out = shutil.ignore_patterns("mlflow.db*", "mlartifacts", "mlruns")  # they name the folder they are in
        shutil.copytree(self.folder, folder, symlinks=True, ignore=left_out, dirs_exist_ok=True)
        result = copy.copy(self)
        result.folder, result.env = folder, self.env | {"PYTHONPATH": str(folder)}
        return result

    def write_params(self, params: dict) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))
        with contextlib.suppress(ParamsError):  # some tests want to see params refused
            write_dvc(check_params(params), self.folder / "dvc.yaml", self.folder)

    def run(self, *command: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess:
        # Each `dvc repro` is a pipeline run of its own; its warm stages are no descendants that could know it.
        env = self.env | ({"LISSOM_PIPELINE_RUN": uuid.uuid4().hex} if command[0] == "dvc" else {})
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout)
        report = done.stderr if len(done.stderr) < 12_000 else f"{done.stderr[:6000]}\n[...]\n{done.stderr[-6000:]}"
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{report}"
        return done

    def run_names(self) -> list[str]:
        """Names of all runs, sorted, by the database itself: MLflow takes seconds to load."""
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            return [name for (name,) in database.execute("SELECT name FROM runs ORDER BY name")]

    def kill_when(self, appears: str, *command: str, timeout: float = 300) -> None:
        """Start a command and `kill -9` it with all its children as soon as a path of a pattern appears."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + timeout
        while not any(self.folder.glob(appears)):
            assert process.poll() is None and time.monotonic() < end, f"{appears} never appeared"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start_warm(env: dict[str, str]) -> None:
    """Let `python -m lissom.components.x` and `lissom` start from the session's warm server."""
    if tools := warm.tools():
        env["PATH"] = f"{tools}{os.pathsep}{env['PATH']}"
        env["PYTHON_EXEC"] = str(tools / "python")  # torchrun's own, for the processes that it starts


def read(workspace: Workspace, path: str):
    return json.loads((workspace.folder / path).read_text())


def lissom_predict(workspace: Workspace, text: str, pair: str, *options: str) -> str:
    shown = workspace.run("lissom", "predict", text, "--pair", pair, *options).stdout
    return shown.splitlines()[1].split()[0]


def write_base(folder: Path) -> None:
    """A plain transformers model, as a user would have one."""
    from transformers import PreTrainedTokenizerFast

    model = tiny.model("bert")
    model.network.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=model.tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(folder)


def write_data(folder: Path) -> None:
    """Pairs that match when the second text praises; the first one is there to be read past."""
    rng = random.Random(0)
    folder.mkdir()

    def pairs(count: int) -> list[tuple[str, str, str]]:
        rows = []
        for number in range(count):
            left = f"the {rng.choice(['film', 'plot', 'actor'])} was {rng.choice(['not', 'very'])} long"
            word = rng.choice(["good", "fine", "great"] if number % 2 == 0 else ["bad", "poor", "dull"])
            rows.append((left, f"{word} {rng.choice(['movie', 'scene', 'story'])}", ["match", "mismatch"][number % 2]))
        return rows

    for split, count in (("train", 320), ("dev", 60), ("test", 80)):
        lines = ["left\tright\tlabel", *("\t".join(row) for row in pairs(count))]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    lines = ["left\tright", *("\t".join(row[:2]) for row in pairs(64))]
    (folder / "unlabelled.tsv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def workspace():
    """The whole pipeline, run once, every stage in an interpreter that starts from nothing.

    Once for all processes of the session: what one adds to it, the others may meet.
    """
    folder, finished = warm.shared() / "workspace", warm.shared() / "finished"
    with FileLock(warm.shared() / "pipeline.lock"):
        if finished.exists():
            result = Workspace.__new__(Workspace)
            result.open(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            result = Workspace(folder, starts_warm=False)
            result.run("dvc", "repro", timeout=900)
            finished.touch()
    start_warm(result.env)
    return result
