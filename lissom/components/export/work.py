"""The work of the stage: export the model, check parity with torch, and choose the speed of a model with exits."""

from collections.abc import Iterable, Iterator
from itertools import islice

from lissom.artifacts import EXPORT_RECORD, FINAL, OLLAMA, TEACHER, write_json
from lissom.components.stage import Outcome, Stage
from lissom.evaluate.exits import try_speeds
from lissom.export.baselines import write_baselines
from lissom.export.exported import ExportRecord, TriedSpeed, model_bytes
from lissom.export.onnx import export_onnx, set_speed
from lissom.export.parity import check_parity
from lissom.gguf.card import AnyCard
from lissom.models.compressed import CompressedModel
from lissom.models.exits import has_early_exits
from lissom.tasks.language_modeling import LanguageModeling

_TEXTS, _PIECE = 100, 5000
"""Texts, or pieces of so many characters of long ones, whose tokens are compared."""


def export(stage: Stage) -> Outcome:
    """Export the model, check parity on the dev set, and write the export record; the teacher's baselines too."""
    model, folder, params = stage.load("model"), stage.outputs["export"], stage.params.export
    onnx_file, dev = export_onnx(model, folder, params.beams), stage.encode(model, "dev")
    parity = check_parity(model, onnx_file, dev, params)
    trials: list[TriedSpeed] = []
    if has_early_exits(model.network):
        reference = float(model.manifest.steps[0].metrics["dev_score"])  # the teacher's
        speed, trials = try_speeds(model, folder, dev, reference, params)
        set_speed(folder, speed)
    if stage.variant == TEACHER:
        write_baselines(model, folder)
    record = ExportRecord(
        format="onnx", files=dict(onnx_file.files), integer_kernels=onnx_file.kernels(), parity=parity,
        tried_speeds=tuple(trials), gguf=_export_gguf(stage, model),
    )  # fmt: skip
    write_json(folder / EXPORT_RECORD, record.model_dump(mode="json"))
    megabytes = model_bytes(record.files) / 1e6
    return Outcome(metrics={"megabytes": megabytes, **record.model_dump(mode="json", exclude={"files", "cost"})})


def _export_gguf(stage: Stage, model: CompressedModel) -> AnyCard | None:
    """Write the folder for Ollama beside the final model's graph, if it is wanted; return its proof."""
    params = stage.params.export
    if stage.variant != FINAL or "gguf" not in params.formats:
        return None
    from lissom.gguf.embeddings import write_embeddings  # needs packages that only this format needs
    from lissom.gguf.ollama import write_ollama

    folder = stage.outputs["export"] / OLLAMA
    folder.mkdir()
    texts = list(islice(_pieces(stage.texts("test")), _TEXTS))
    train = stage.encode(model, "train")
    if isinstance(model.manifest.task, LanguageModeling):
        conversations = list(islice(stage.texts("test", conversations=True), _TEXTS))
        return write_ollama(model, folder, train, stage.encode(model, "test"), texts, params.gguf, conversations)
    return write_embeddings(model, folder, train, texts, params.gguf)


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (text[start : start + _PIECE] for start in range(0, max(1, len(text)), _PIECE))
