"""Sequence-level distillation: the student learns the texts that the teacher writes for the training texts.

Kim and Rush 2016, arXiv:1606.07947, §3.2: the mode of the teacher's distribution over whole answers, found by beam
search, takes the place of the data's answers. What the teacher writes varies less than what people wrote, so that a
small student can learn it, and search it with a small beam.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lissom.console import track
from lissom.data.batches import sorted_batches
from lissom.data.tables import Row, write_table
from lissom.distill.material import DistillationResult, Material
from lissom.distill.sequence_config import SequenceDistillation
from lissom.models.generation import TorchModel
from lissom.models.students import take_stacks
from lissom.training.losses import against_targets

_BATCH_SIZE = 64


def distill(params: SequenceDistillation, material: Material) -> DistillationResult:
    """Let the teacher write, cut the student out of it, and train the student on what was written."""
    teacher, task = material.teacher, material.task
    folder = Path(tempfile.mkdtemp(dir=material.scratch))
    table = write_table(folder / "written.arrow", written_by_teacher(params.beams, material))
    student = take_stacks(teacher, params.blocks, params.decoder_blocks)
    data = student.encode([table], folder / "encoded")
    result = material.train(
        "training", student.network, data, student.pad_id, against_targets(task), params.training,
        identity=params.model_dump_json(), score=material.scorer(student, params.training),
    )  # fmt: skip
    return DistillationResult(student, {"training": result}, {"written_texts": len(table)})


def written_by_teacher(beams: int, material: Material) -> Iterator[Row]:
    """Yield the texts of train and transfer with the teacher's answers in place of the labels."""
    teacher = material.teacher
    data = material.texts(teacher)
    assert data.written is not None, "params allow this method only where answers are texts"
    model = TorchModel(teacher.network, material.task.max_length, beams)
    device = next(teacher.network.parameters()).device
    answers = np.empty(len(data), dtype=object)
    batches = sorted_batches(data, _BATCH_SIZE, teacher.pad_id)
    with torch.inference_mode():
        for batch in track(batches, "teacher's answers", -(-len(data) // _BATCH_SIZE)):
            answers[batch.indices.numpy()] = data.written.decode(model.generate(batch.to(device)))
    texts = (row.text for name in ("train", "transfer") for row in material.tables[name].rows())
    yield from (Row(text, None, answer.strip() or None) for text, answer in zip(texts, answers, strict=True))
