"""Write the README's figures, and claims and ages of all results, anew: `python -m benchmarks.readme`.

Needed after a change of code that was measured, too: its figures are old then, and pages and README say so. A test
holds that they agree.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import (
    accelerator,
    anywhere,
    attention,
    distillation,
    early_exit,
    headline,
    language_models,
    lowrank,
    parallel,
    pipeline,
    pruning,
    pruning_curves,
    pruning_figure,
    quantization,
    shape,
    smallest,
    static,
    tasks,
    training,
    trust,
)
from benchmarks.provenance import ROOT
from benchmarks.results import FOLDER, Benchmark, Rows, load, renew
from lissom.artifacts import write_text

BENCHMARKS = tuple(
    script.BENCHMARK
    for script in (
        headline,
        pipeline,
        training,
        distillation,
        early_exit,
        parallel,
        accelerator,
        shape,
        static,
        tasks,
        language_models,
        pruning,
        quantization,
        lowrank,
        smallest,
        attention,
        trust,
        anywhere,
    )
)

_BEGIN, _END = "<!-- figures: written by benchmarks/readme.py -->", "<!-- end of figures -->"
_EARLIER = " (measured on an earlier version)"


def figures(folder: Path = FOLDER) -> str:
    """Return the block of the README that tells figures, each with its interval, machine and age."""
    results = {
        item.name: load(item, folder)["claims"]
        for item in (
            headline.BENCHMARK,
            pipeline.BENCHMARK,
            training.BENCHMARK,
            trust.BENCHMARK,
        )
    }
    first, run, loop = (results[name] for name in ("headline", "pipeline", "training"))
    minutes, default = _default_run(results["trust"])
    lines = [
        f"On SST-2, a fine-tuned MiniLM-L6 ({_value(first['teacher_accuracy'], '.1f', ' %')}) becomes a file of "
        f"{_value(first['megabytes'], '.1f', ' MB')} that keeps {_value(first['accuracy_kept'], '.1f', ' %')} of its accuracy.",
        f"{_speeds(first)}{_age(first)} ([headline](benchmarks/results/headline.md); {_machines(first)}).",
        f"The default run below takes {minutes}{_age(default)} "
        f"([trust](benchmarks/results/trust.md); {_machines(default)}).",
        f"Its processes take {_value(run['default_peak_gib'], '.1f', ' GiB')} of memory{_age(run)} "
        f"([pipeline](benchmarks/results/pipeline.md); {_machines(run)}).",
        f"Its training loop does {_value(loop['throughput_vs_hf_trainer'], '.1f', 'x')} the examples per second of a plain "
        f"Hugging Face Trainer{_age(loop)} ([training](benchmarks/results/training.md); {_machines(loop)}).",
    ]  # fmt: skip
    return "\n".join(lines)


def with_figures(readme: str, folder: Path = FOLDER) -> str:
    """Return the README with its figures renewed."""
    return re.sub(
        f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", lambda _: f"{_BEGIN}\n{figures(folder)}\n{_END}", readme, flags=re.S
    )


def present(folder: Path = FOLDER) -> list[Benchmark]:
    """Return the benchmarks that have a result."""
    return [item for item in BENCHMARKS if (folder / f"{item.name}.json").is_file()]


def _default_run(claims: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """Return the time of the default run by `lissom compress`, and its claim; by `dvc repro` if that alone is known."""
    own, by_dvc = "default_seconds_lissom_compress", "default_seconds"
    name, command = (own, "") if claims[own]["value"] is not None else (by_dvc, " by `dvc repro`")
    return f"{_value(claims[name], '.1f', ' minutes', 1 / 60)}{command}", {name: claims[name]}


def _value(claim: Mapping[str, Any], form: str, unit: str, factor: float = 1.0) -> str:
    """Return a figure with its unit and, in brackets, its interval."""
    if claim["value"] is None:
        return "?"
    value = f"{claim['value'] * factor:{form}}{unit}"
    verdicts = {"no": f"misses its bar, {claim['bar']}", "not enough seeds": "too few seeds for a verdict"}
    verdict = verdicts.get(claim["holds"], "")
    if claim["low"] is None:
        return f"{value} ({verdict})" if claim["holds"] == "no" else value
    interval = f"{claim['low'] * factor:{form}} to {claim['high'] * factor:{form}}"
    return f"{value} ({interval}{'; ' if verdict else ''}{verdict})"


def _speeds(claims: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence of those ratios that have been measured, the strongest baseline first."""
    texts = {
        "speedup_strongest_int8_b1_pinned": "faster than the teacher's strongest dynamic int8 export on one core",
        "speedup_onnx_b1_pinned": "faster than its float32 ONNX file on one core",
        "speedup_eager_b1": "faster than eager torch on all cores",
    }
    known = [(claims[name], text) for name, text in texts.items() if claims[name]["value"] is not None]
    return "For one text it is " + ", ".join(f"{_value(claim, '.1f', 'x')} {text}" for claim, text in known)


def _age(claims: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what is said of figures that are older than their code."""
    known = [claim for claim in claims.values() if claim["value"] is not None]
    return _EARLIER if any(claim["old"] for claim in known) else ""


def _machines(claims: Mapping[str, Mapping[str, Any]]) -> str:
    known = [claim for claim in claims.values() if claim["value"] is not None]
    fewest = min((claim["seeds"] for claim in known), default=0)
    names = sorted({machine for claim in known for machine in claim["machines"]})
    return f"{'; '.join(names)}, {fewest} seed{'' if fewest == 1 else 's'}"


if __name__ == "__main__":
    for benchmark in present():
        renew(benchmark)
    write_text(FOLDER / "headline.svg", headline.figure(Rows(headline.BENCHMARK, load(headline.BENCHMARK))))
    of_pruning = Rows(pruning.BENCHMARK, load(pruning.BENCHMARK))
    write_text(FOLDER / "pruning.svg", pruning_figure.figure(of_pruning))
    write_text(FOLDER / "pruning_curves.svg", pruning_curves.figure(of_pruning))
    write_text(
        FOLDER / "quantization.svg", quantization.figure(Rows(quantization.BENCHMARK, load(quantization.BENCHMARK)))
    )
    path = ROOT / "README.md"
    write_text(path, with_figures(path.read_text(encoding="utf-8")))
