"""Peak memory of a process that only serves: `python -m lissom.serving.footprint FOLDER` prints it in MB (10^6)."""

import sys
from pathlib import Path

from lissom.serving.classifier import OnnxClassifier
from lissom.serving.memory import peak_bytes

_WORDS = ["a", "text", "of", "middling", "length", "that", "a", "user", "might", "send", "to", "be", "classified"]


def main(folder: str) -> None:
    """Load the model, answer single texts and a batch, print the peak resident set size."""
    classifier = OnnxClassifier(Path(folder))
    text = " ".join(_WORDS * 3)
    for size in (1, 8):
        texts = [text] * size
        classifier.run(classifier.encode(texts, texts if classifier.serving["pair"] else None))
    print(peak_bytes() / 1e6)


if __name__ == "__main__":
    main(sys.argv[1])
