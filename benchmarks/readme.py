"""Write the README's figures from the result files: `python -m benchmarks.readme`. A test holds that they agree."""

import re

from benchmarks.results import FOLDER
from benchmarks.workspace import ROOT
from lissom.artifacts import read_json, write_text

_BEGIN, _END = "<!-- figures: written by benchmarks/readme.py -->", "<!-- end of figures -->"


def figures() -> str:
    """Return the block of the README that tells figures."""
    headline, pipeline, training = (read_json(FOLDER / f"{name}.json") for name in ("headline", "pipeline", "training"))
    claims = {
        name: outcome["value"]
        for result in (headline, pipeline, training)
        for name, outcome in result["claims"].items()
    }
    final = next(row for row in headline["rows"] if row["data"] == "sst2" and row["variant"].startswith("final"))
    return "\n".join([
        f"On SST-2, a fine-tuned MiniLM-L6 ({claims['teacher_accuracy']:.1f} %) becomes a file of {claims['megabytes']:.1f} MB that keeps "
        f"{claims['accuracy_kept']:.1f} % of its accuracy,",
        f"answers in {final['p50_ms']:.2f} ms, {claims['speedup_eager_b1']:.0f}x faster than the teacher in eager torch and "
        f"{claims['speedup_plain_int8_b1']:.1f}x faster than its plain dynamic int8 export",
        "([headline](benchmarks/results/headline.md)). The default run below takes "
        f"{claims['compress_seconds'] / 60:.0f} minutes and {claims['compress_peak_gib']:.1f} GiB on two cores",
        f"([pipeline](benchmarks/results/pipeline.md)); its training loop does {claims['throughput_vs_hf_trainer']:.1f}x the examples per "
        "second of a plain Hugging Face Trainer",
        "([training](benchmarks/results/training.md)).",
    ])  # fmt: skip


def with_figures(readme: str) -> str:
    """Return the README with its figures renewed."""
    return re.sub(
        f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", lambda _: f"{_BEGIN}\n{figures()}\n{_END}", readme, flags=re.S
    )


if __name__ == "__main__":
    path = ROOT / "README.md"
    write_text(path, with_figures(path.read_text(encoding="utf-8")))
