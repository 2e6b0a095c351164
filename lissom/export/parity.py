"""An export is not finished until its answers match torch."""

import numpy as np

from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.export.config import ExportParams
from lissom.export.exported import Exported, Parity, all_answers
from lissom.models.compressed import CompressedModel
from lissom.models.layers import is_convertible
from lissom.training.predicting import predict


def check_parity(model: CompressedModel, exported: Exported, dev: Encoded, params: ExportParams) -> Parity:
    """Compare an exported file with the torch model on every dev example.

    Raises:
        InputError: an output differs by more than the tolerance, or too many answers differ.
    """
    name = "int8_tolerance" if is_convertible(model.network) else "float_tolerance"
    expected = predict(model.network, dev, model.pad_id).numpy()
    found = all_answers(exported, dev)
    parity = Parity(
        tolerance_name=name,
        tolerance=getattr(params, name),
        max_logit_difference=float(np.abs(expected - found).max()),
        agreement=model.manifest.task.agreement(expected, found),
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
