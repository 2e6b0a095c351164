"""Params of the export."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.gguf.config import GgufParams
from lissom.section import Section

BEAMS = 4


class ExportParams(Section):
    """Tolerances of the exported file against the torch model, and the choice of the speed of early exit."""

    formats: tuple[Literal["onnx", "gguf"], ...] = ("onnx",)
    """Formats of the final model: onnx, which is evaluated and registered, and gguf for language models besides."""

    gguf: GgufParams = GgufParams()
    """Files of the format gguf."""

    float_tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference of any logit between torch and the file, for models without integer kernels."""

    int8_tolerance: float = Field(default=0.5, gt=0)
    """The same for integer kernels, where a rounding difference may move an activation by one of 256 levels."""

    label_agreement: float = Field(default=0.995, gt=0, le=1)
    """Smallest share of dev examples on which the file and torch give the same label."""

    beams: int = Field(default=BEAMS, ge=1, le=64)
    """Translation: hypotheses of the beam search by which the file writes; 1 takes the most likely token every time."""

    speeds: tuple[float, ...] = Field(default=(0.02, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8), min_length=1)
    """Speeds at which a model with exits is measured, besides full depth."""

    max_speed_drop: float = Field(default=0.01, ge=0)
    """Largest loss of dev score against the teacher; the fastest speed within it is chosen."""

    @model_validator(mode="after")
    def _onnx_comes_first(self) -> "ExportParams":
        if self.formats[:1] != ("onnx",) or len(set(self.formats)) < len(self.formats):
            raise ValueError(
                f"formats: {', '.join(self.formats) or 'none'}: onnx comes first, since evaluation and registry work "
                "on it; allowed: [onnx] or [onnx, gguf]"
            )
        return self
