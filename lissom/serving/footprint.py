"""Peak memory of a process that only serves: `python -m lissom.serving.footprint FOLDER` prints it in MB (10^6)."""

import resource
import sys
from pathlib import Path

from lissom.serving.classifier import OnnxClassifier

_WORDS = ["a", "text", "of", "middling", "length", "that", "a", "user", "might", "send", "to", "be", "classified"]


def main(folder: str) -> None:
    """Load the model, answer single texts and a batch, print the peak resident set size."""
    classifier = OnnxClassifier(Path(folder))
    text = " ".join(_WORDS * 3)
    for size in (1, 8):
        texts = [text] * size
        classifier.run(classifier.encode(texts, texts if classifier.serving["pair"] else None))
    print(peak_bytes() / 1e6)


def peak_bytes() -> int:
    """Return the peak resident set size of this process.

    On Linux from VmHWM: ru_maxrss would still hold the size of the process that this one was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(sys.argv[1])
