"""Params of the export to ONNX."""

from pydantic import Field

from lissom.section import Section


class ExportParams(Section):
    """How close the exported file must be to the model that it came from."""

    float_tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference of any logit between torch and the file, for models without integer kernels."""

    int8_tolerance: float = Field(default=0.5, gt=0)
    """The same for integer kernels: rounding-off in float may move an activation to the next of 256 levels."""

    label_agreement: float = Field(default=0.995, gt=0, le=1)
    """Smallest share of dev examples on which the file and torch give the same label."""
