"""Parity check of an exported file against the torch model."""

import numpy as np

from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.export.config import ExportParams
from lissom.export.exported import Exported, Parity, split_logits
from lissom.models.compressed import CompressedModel
from lissom.models.layers import is_convertible
from lissom.training.predicting import predict


def check_parity(model: CompressedModel, exported: Exported, dev: Encoded, params: ExportParams) -> Parity:
    """Compare an exported file with the torch model on every dev example.

    Raises:
        InputError: a logit differs by more than the tolerance, or too many predictions differ.
    """
    name = "int8_tolerance" if is_convertible(model.network) else "float_tolerance"
    torch_logits = predict(model.network, dev, model.pad_id).numpy()
    file_logits = split_logits(exported, dev)
    parity = Parity(
        tolerance_name=name,
        tolerance=getattr(params, name),
        max_logit_difference=float(np.abs(torch_logits - file_logits).max()),
        agreement=model.manifest.task.agreement(torch_logits, file_logits, getattr(params, name)),
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
