"""An export is not finished until its answers match torch."""

from pathlib import Path

import numpy as np
import torch

from lissom.data.batches import sorted_batches
from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.export.config import ExportParams
from lissom.models.compressed import CompressedModel
from lissom.models.edits.quantizers import quantized_layers
from lissom.section import Section
from lissom.serving.classifier import OnnxClassifier
from lissom.training.predicting import predict

_BATCH_SIZE = 32


class Parity(Section):
    """How far the exported file is from torch, over the dev set."""

    tolerance_name: str
    tolerance: float
    max_logit_difference: float
    label_agreement: float | None
    """None where a number is predicted."""
    examples: int


def check_parity(model: CompressedModel, folder: Path, dev: Encoded, params: ExportParams) -> Parity:
    """Compare the exported file with the torch model on every dev example.

    Raises:
        InputError: a logit differs by more than the tolerance, or too many labels differ.
    """
    name = "int8_tolerance" if quantized_layers(model.network) else "float_tolerance"
    expected = predict(model.network, dev, model.pad_id)
    found = exported_logits(OnnxClassifier(folder), dev, model.pad_id)
    labels = model.manifest.task.labels
    agreement = float((expected.argmax(1) == found.argmax(1)).float().mean()) if labels else None
    parity = Parity(
        tolerance_name=name,
        tolerance=getattr(params, name),
        max_logit_difference=float((expected - found).abs().max()),
        label_agreement=agreement,
        examples=len(dev),
    )
    if parity.max_logit_difference > parity.tolerance:
        raise InputError(
            f"export: file and torch differ by up to {parity.max_logit_difference:.2g} in a logit over "
            f"{parity.examples} dev examples; export.{name} is {parity.tolerance:g}"
        )
    if agreement is not None and agreement < params.label_agreement:
        raise InputError(
            f"export: labels of file and torch agree on {agreement:.2%} of {parity.examples} dev examples; "
            f"export.label_agreement is {params.label_agreement:.2%}"
        )
    return parity


def exported_logits(classifier: OnnxClassifier, data: Encoded, pad: int) -> torch.Tensor:
    """Return the exported model's logits of every example in its place, `[examples, labels]`, at its own speed."""
    logits, places = [], []
    for batch in sorted_batches(data, _BATCH_SIZE, pad):
        inputs = {name: getattr(batch, name).numpy() for name in classifier.serving["inputs"]}
        logits.append(classifier.logits(inputs))
        places.append(batch.indices.numpy())
    order = np.argsort(np.concatenate(places))
    return torch.from_numpy(np.concatenate(logits)[order])
