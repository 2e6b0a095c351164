"""Predictions of a model given by name: a folder or a registered version."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.artifacts import MANIFEST
from lissom.errors import InputError
from lissom.serving.answers import Answer, to_answers
from lissom.serving.classifier import OnnxClassifier
from lissom.storage import scratch_folder
from lissom.tracking.fetching import exported_folder
from lissom.tracking.naming import champion

if TYPE_CHECKING:
    from lissom.data.encoding import Encoded, Written
    from lissom.models.compressed import CompressedModel


_AT_A_TIME = 8
"""Texts that are translated together: every one has the scores of several beams."""


def answer(
    texts: Sequence[str], pairs: Sequence[str] | None, model: str | None, speed: float | None = None
) -> tuple[str, list[Answer]]:
    """Return the name of the model that was used, and its answer to every text.

    Args:
        texts: the texts.
        pairs: the second texts, for tasks on pairs.
        model: an exported folder, a model directory, a `models:/` URI, or None for the registry's champion.
        speed: for a model with exits, the largest uncertainty at which an example leaves early.

    Raises:
        InputError: there is no such model, or the texts do not suit it.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise InputError(f"{len(texts)} texts, but {len(pairs)} second texts; give --pair once for every text")
    model = model or champion()
    folder = Path(model)
    try:
        if not model.startswith("models:/") and (folder / MANIFEST).is_file():
            return model, _ask_torch(folder, texts, pairs, speed)
        name, exported = exported_folder(model)
        return name, OnnxClassifier(exported).predict(texts, pairs, speed)
    except ValueError as error:
        hint = "; give the second text with --pair" if "no second texts" in str(error) else ""
        raise InputError(f"{error}{hint}") from None


def _ask_torch(folder: Path, texts: Sequence[str], pairs: Sequence[str] | None, speed: float | None) -> list[Answer]:

    from lissom.data.tables import Row, write_table
    from lissom.models.directory import load
    from lissom.training.predicting import predict

    if speed is not None:
        raise InputError(f"{folder} is run by torch at full depth; give the exported folder to leave early")
    model = load(folder)
    task = model.manifest.task
    if task.pair != (pairs is not None):
        raise InputError(f"this model classifies {'pairs of texts: give --pair' if task.pair else 'single texts'}")
    if task.continues_texts:
        return _continue(model, texts)
    with scratch_folder() as scratch:
        seconds: Sequence[str | None] = pairs or [None] * len(texts)
        rows = (Row(text, pair, None) for text, pair in zip(texts, seconds, strict=True))
        table = write_table(scratch / "texts.arrow", rows)
        data = model.encode([table], scratch / "tokens")
        if data.written is not None:
            return _translate(model, data, data.written)
        return to_answers(predict(model.network, data, model.pad_id).numpy(), task.serving(), texts)


def _translate(model: "CompressedModel", data: "Encoded", written: "Written") -> list[Answer]:
    import numpy as np

    from lissom.data.batches import collate
    from lissom.export.config import BEAMS
    from lissom.models.generation import TorchModel

    writer = TorchModel(model.network, model.manifest.task.max_length, BEAMS)
    answers: list[Answer] = []
    for start in range(0, len(data), _AT_A_TIME):
        places = np.arange(start, min(start + _AT_A_TIME, len(data)))
        texts = written.decode(writer.generate(collate(data, places, model.pad_id)))
        answers += [{"translation": text.strip()} for text in texts]
    return answers


def _continue(model: "CompressedModel", texts: Sequence[str]) -> list[Answer]:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from lissom.models.compressed import logits_from
    from lissom.models.generation import end_ids
    from lissom.serving.language_modeling import continuations

    def step(tokens: Sequence[int], state: Any) -> tuple[NDArray[np.float32], Any]:
        ids = torch.tensor([[*(state or ()), *tokens]])
        with torch.inference_mode():
            logits = logits_from(model.network, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        return logits[0, -1].float().numpy(), ids[0].tolist()

    serving = {**model.manifest.task.serving(), "end_ids": end_ids(model.network)}
    model.tokenizer.no_truncation()
    model.tokenizer.no_padding()
    return continuations(step, model.tokenizer, texts, serving)
