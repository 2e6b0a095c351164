"""Parity check of an exported file against the torch model."""

import numpy as np
import torch

from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.export.config import ExportParams
from lissom.export.exported import Exported, Parity, logits_by_batch
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.layers import computes_with_integers

_STEPPED = 4
"""Texts that a language model reads token by token."""


def check_parity(model: CompressedModel, exported: Exported, dev: Encoded, params: ExportParams) -> Parity:
    """Compare an exported file with the torch model on every dev example.

    A language model also reads the longest ones token by token, with its cache of keys and values.

    Raises:
        InputError: a logit differs by more than the tolerance, or too many predictions differ.
    """
    name = "int8_tolerance" if computes_with_integers(model.network) else "float_tolerance"
    task, tolerance = model.manifest.task, getattr(params, name)
    difference, agreements, rows = 0.0, [], []
    network = model.network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        for batch, file_logits in logits_by_batch(exported, dev):
            torch_logits = logits_of(network, batch.to(device)).float().cpu().numpy()
            differences = np.nan_to_num(np.abs(torch_logits - file_logits), nan=np.inf)
            difference = max(difference, float(differences.max()))
            agreements.append(task.agreement(torch_logits, file_logits, tolerance))
            rows.append(len(file_logits))
    if task.continues_texts:
        difference = max(difference, _difference_of_steps(model, exported, dev))
    known = [agreement for agreement in agreements if agreement is not None]
    parity = Parity(
        tolerance_name=name,
        tolerance=tolerance,
        max_logit_difference=difference,
        agreement=float(np.average(known, weights=rows)) if known else None,
        examples=len(dev),
    )
    if parity.max_logit_difference > parity.tolerance:
        raise InputError(
            f"export: file and torch differ by up to {parity.max_logit_difference:.2g} in an output over "
            f"{parity.examples} dev examples; export.{name} is {parity.tolerance:g}"
        )
    if parity.agreement is not None and parity.agreement < params.label_agreement:
        raise InputError(
            f"export: labels of file and torch agree on {parity.agreement:.2%} of {parity.examples} dev examples; "
            f"export.label_agreement is {params.label_agreement:.2%}"
        )
    return parity


def _difference_of_steps(model: CompressedModel, exported: Exported, dev: Encoded) -> float:
    """Return the largest difference of a logit when the second halves of texts are read token by token."""
    network, step, differences = model.network, exported.stepper(threads=1), [0.0]
    device = next(network.parameters()).device
    for number in np.argsort(dev.lengths)[-_STEPPED:]:
        ids = dev.tokens[dev.offsets[number] : dev.offsets[number + 1]].tolist()
        with torch.inference_mode():
            expected = network(input_ids=torch.tensor([ids], device=device)).logits[0].float().cpu().numpy()
        read = max(1, len(ids) // 2)
        logits, state = step(ids[:read], None)
        for place in range(read, len(ids) + 1):
            differences.append(float(np.nan_to_num(np.abs(logits - expected[place - 1]), nan=np.inf).max()))
            if place < len(ids):
                logits, state = step([ids[place]], state)
    return max(differences)
