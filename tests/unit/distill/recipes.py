"""Every method with params that learn a task of two words in a second."""

from pathlib import Path

from pydantic import TypeAdapter

from lissom.data.tables import Row, Table, write_table
from lissom.distill.config import DistillParams
from tests.unit import tiny

FAST = {"epochs": 8, "batch_size": 8, "learning_rate": 5e-3, "precision": "float32", "freeze_word_table": False}
SHORT = FAST | {"epochs": 1}
METHODS = {
    "logits": {"blocks": [0, 2], "training": FAST},
    "distilbert": {"training": FAST},
    "patient": {"blocks": [0, 1], "training": FAST},
    "tinybert": {
        "shape": {"blocks": 2, "hidden_size": 16, "intermediate_size": 24},
        "layers_training": FAST | {"keep": "last"},
        "training": FAST,
    },
    "mobilebert": {
        "shape": {"bottleneck_size": 16, "intermediate_size": 24, "ffns": 2, "embedding_size": 16},
        "transfer_training": SHORT | {"keep": "last"},
        "training": FAST | {"epochs": 12},
    },
    "lstm": {
        "embedding_size": 16,
        "hidden_size": 8,
        "classifier_size": 8,
        "min_count": 1,
        "augmentation": {"mask_probability": 0},  # the tiny tokenizers have no mask token
        "training": FAST | {"weight_decay": 0},
    },
    "static": {"embedding_size": 16, "classifier_size": 8, "training": FAST},
    "mutual": {"peers": [{"blocks": [0, 1]}, {"blocks": [0, 3], "seed": 1}], "training": FAST},
    "joint": {"blocks": [0, 2], "training": FAST},
    "fastbert": {"exit_size": 16, "backbone_training": FAST, "training": FAST | {"keep": "last"}},
    "deep_to_shallow": {"exit_size": 16, "training": FAST},
    "born_again": {"blocks": [0, 2], "training": FAST},
    "ema": {"blocks": [0, 2], "momentum": 0.9, "training": FAST},
}


def params_of(method: str, **changes):
    return TypeAdapter(DistillParams).validate_python({"method": method, **METHODS[method], **changes})


def sentences(count: int, start: int, labelled: bool) -> list[Row]:
    """Good films and bad ones, all different."""
    fillers = [word for word in tiny.WORDS if word not in ("good", "bad")]
    rows = []
    for number in range(start, start + count):
        words = [fillers[number % 17], fillers[number // 17 % 17], fillers[number * 7 % 13]]
        words.insert(number % 4, ("bad", "good")[number % 2])
        rows.append(Row(" ".join(words), None, tiny.TASK.labels[number % 2] if labelled else None))
    return rows


def tables_in(folder: Path) -> dict[str, Table]:
    """What students are given."""
    folder.mkdir(exist_ok=True)
    return {
        "train": write_table(folder / "train.arrow", sentences(96, 0, True)),
        "transfer": write_table(folder / "transfer.arrow", sentences(32, 200, False)),
        "dev": write_table(folder / "dev.arrow", sentences(32, 300, True)),
    }
