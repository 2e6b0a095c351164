"""A Llama from scratch on tinyshakespeare, and students of half its blocks: rows of `benchmarks.tasks`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import LlamaConfig

from benchmarks.data import require_data
from benchmarks.translating import TEACHER
from benchmarks.workspace import WORK
from lissom.data.batches import collate
from lissom.data.tables import Row, Table, write_table
from lissom.distill.material import Material
from lissom.distill.offline_config import LogitsDistillation
from lissom.distill.run import distill
from lissom.export.onnx import export_onnx
from lissom.models.compressed import CompressedModel, logits_from, logits_of
from lissom.models.directory import load, save
from lissom.models.manifest import Manifest
from lissom.models.students import config_values, take_blocks
from lissom.serving.classifier import OnnxClassifier
from lissom.tasks.language_modeling import LanguageModeling
from lissom.tasks.next_token import from_cache
from lissom.training.config import CACHED_TOKENS, TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.predicting import score

LANGUAGE = "language"
ALONE, DISTILLED = "student, alone", "student, distilled"

_ALPHAS = {ALONE: 0.0, DISTILLED: 1.0}
_VOCABULARY, _LENGTH, _PROMPTS, _NEW = 2048, 128, 50, 32
_BLOCKS = (0, 2, 5)
_TASK = LanguageModeling(name="tinyshakespeare", pair=False, max_length=_LENGTH)
_TRAINING: dict[str, Any] = {
    "epochs": 5, "batch_size": 16, "learning_rate": 1e-3, "freeze_word_table": False, "weight_decay": 0.1,
}  # fmt: skip
_STUDENT: dict[str, Any] = {**_TRAINING, "epochs": 2}
_CACHES = (16, CACHED_TOKENS, 256, 1024)


def settings_of() -> list[Any]:
    """Return what the rows depend on besides code."""
    return [_TRAINING, _STUDENT, _ALPHAS, _VOCABULARY, _LENGTH]


def language(seed: int, *, rehearse: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield variant and figures of every row: the teacher, and a student alone and distilled."""
    folder = WORK / f"tasks-language-{seed}{'-rehearsed' if rehearse else ''}"
    with tempfile.TemporaryDirectory() as scratch:
        tables = _texts(Path(scratch), rehearse=rehearse)
        lesson = Lesson(tables=tables, scratch=Path(scratch))
        teacher = _teacher(folder, lesson, seed)
        yield TEACHER, {**_perplexity(teacher, lesson), **_cache(teacher, lesson), **_generation(teacher, lesson)}
        material = Material(**vars(lesson), teacher=teacher)
        for variant, alpha in _ALPHAS.items():
            training = {**_STUDENT, "seed": seed, "loss": {"temperature": 1.0, "alpha": alpha}}
            params = LogitsDistillation.model_validate({"method": "logits", "blocks": _BLOCKS, "training": training})
            student = distill(params, material)
            steps = sum(result.steps for result in student.trainings.values())
            yield variant, {**_perplexity(student.model, lesson), "updates": steps}


def _texts(folder: Path, *, rehearse: bool) -> dict[str, Table]:
    """Return tinyshakespeare in passages: nine tenths train, the rest dev and test."""
    text = (require_data("tinyshakespeare") / "input.txt").read_text(encoding="utf-8")
    text = text[:60_000] if rehearse else text
    first, second = int(0.9 * len(text)), int(0.95 * len(text))
    parts = {"train": text[:first], "transfer": "", "dev": text[first:second], "test": text[second:]}
    return {
        name: write_table(folder / f"{name}.arrow", [Row(part, None, None)] if part else [])
        for name, part in parts.items()
    }


def _teacher(folder: Path, lesson: Lesson, seed: int) -> CompressedModel:
    """Return the teacher, which is trained if it has not been yet."""
    if (folder / "teacher").is_dir():
        return load(folder / "teacher")
    tokenizer = _tokenizer(next(text for text, _ in lesson.tables["train"].texts()))
    config = LlamaConfig(
        vocab_size=_VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=_LENGTH, tie_word_embeddings=True, pad_token_id=0, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = _TASK.auto_class.from_config(config)
    manifest = Manifest(base="dir:scratch", base_sha256=None, base_config=config_values(config), task=_TASK)
    teacher = CompressedModel(network.eval(), tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast"}, manifest)
    params = TrainingParams(**_TRAINING, seed=seed)
    lesson.train(
        "teacher", teacher.network, lesson.encode(teacher, "train"), teacher.pad_id, against_targets(_TASK), params,
        identity="", score=lesson.scorer(teacher, params),
    )  # fmt: skip
    save(teacher, folder / "teacher")
    return teacher


def _tokenizer(text: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=["<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def _perplexity(model: CompressedModel, lesson: Lesson) -> dict[str, Any]:
    test = lesson.encode(model, "test")
    return {"ppl": score(model.network, test, model.pad_id, _TASK), "test_tokens": len(test.targets)}


def _cache(teacher: CompressedModel, lesson: Lesson) -> dict[str, Any]:
    """Return the errors of caches of several sizes, over some windows of dev."""
    data = lesson.encode(teacher, "dev")
    batch = collate(data, np.arange(min(32, len(data))), teacher.pad_id)
    half = take_blocks(teacher, _BLOCKS)
    figures: dict[str, Any] = {}
    with torch.inference_mode():
        outputs, student = (logits_of(network, batch).float() for network in (teacher.network, half.network))
        log_p = F.log_softmax(outputs, dim=-1)
        dense = float(_TASK.soft_loss(student, outputs, 1.0))
        for count in _CACHES:
            cached = _TASK.remember(outputs, count)
            tokens, log_q = from_cache(cached)
            spread = log_q[:, -1:] - np.log(outputs.shape[1] - tokens.shape[1])
            reconstruction = spread.expand_as(log_p).scatter(1, tokens, log_q[:, :-1])
            error = F.kl_div(reconstruction, log_p, reduction="batchmean", log_target=True)
            figures[f"cache_error_{count}"] = float(error)
            figures[f"loss_error_{count}"] = abs(dense - float(_TASK.soft_loss(student, cached, 1.0)))
    return figures


def _generation(teacher: CompressedModel, lesson: Lesson) -> dict[str, Any]:
    """Return the share of prompts that the exported file continues as torch does."""
    data = lesson.encode(teacher, "test")
    starts = np.linspace(0, len(data.tokens) - 17, _PROMPTS).astype(np.int64)
    equal = 0
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(teacher, Path(folder))
        served = OnnxClassifier(folder)
        for start in starts:
            prompt = data.tokens[start : start + 16].tolist()
            logits, state = served.step(prompt, None)
            by_file: list[int] = []
            ids = list(prompt)
            while len(by_file) < _NEW:
                by_file.append(int(logits.argmax()))
                logits, state = served.step(by_file[-1:], state)
            with torch.inference_mode():
                while len(ids) < len(prompt) + _NEW:
                    row = torch.tensor([ids])
                    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
                    ids.append(int(logits_from(teacher.network, inputs)[0, -1].argmax()))
            equal += ids[len(prompt) :] == by_file
    return {"generation_equal": equal / len(starts)}
