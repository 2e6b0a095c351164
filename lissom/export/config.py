"""Params of the export."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.gguf.config import GgufParams
from lissom.section import Section

BEAMS = 4


class ExportParams(Section):
    """Tolerances of the exported file against the torch model, and the choice of the speed of early exit."""

    formats: tuple[Literal["onnx", "gguf"], ...] = Field(default=("onnx",), min_length=1)
    """Formats of the final model. The graph for ONNX Runtime is written in any case, since the stages after this one
    run it; gguf writes files for llama.cpp and Ollama besides."""

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
    def _settings_are_used(self) -> "ExportParams":
        if "gguf" not in self.formats and self.gguf != GgufParams():
            raise ValueError(
                "gguf has settings, and formats has no gguf, so none of them would be used; add gguf there"
            )
        # A file of float32 is always compared: its logits for language models, its embeddings for encoders.
        for name, always in (("max_kl_divergence", ()), ("min_cosine", ("f32",))):
            unused = [kind for kind in getattr(self.gguf, name) if kind not in (*self.gguf.types, *always)]
            if unused:
                raise ValueError(
                    f"gguf.{name}: {unused[0]} is not among gguf.types ({', '.join(self.gguf.types)}); name it there, "
                    "or leave its bound out"
                )
        return self
