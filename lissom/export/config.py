"""Params of the export."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.section import Section

BEAMS = 4

FileTypeName = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
]  # fmt: skip


class GgufParams(Section):
    """Files of a language model for llama.cpp and Ollama (export.formats: [onnx, gguf]), and what they must prove."""

    types: tuple[FileTypeName, ...] = Field(default=("q8_0", "q4_k_m"), min_length=1)
    """Types of the files; the first one is the Modelfile's."""

    calibration_tokens: int = Field(default=8192, ge=0)
    """Tokens of the training texts from which the importance of every column is measured; 0 quantises without."""

    proof_tokens: int = Field(default=4096, ge=64)
    """Tokens of the test texts on which llama.cpp is compared with torch."""

    f32_tolerance: float = Field(default=0.01, gt=0)
    """Largest difference of any logit between torch and llama.cpp with the weights in float32."""

    max_kl_divergence: dict[FileTypeName, float] = Field(default_factory=dict)
    """Largest mean KL divergence from torch's distributions, by type, in place of the bounds of docs/gguf.md."""

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the model in Ollama; null takes the task's."""

    license: str | None = None
    """Licence of the model, for the file's metadata and the Modelfile."""

    system: str | None = None
    """System prompt of the Modelfile."""

    temperature: float = Field(default=0.7, ge=0)
    """Temperature of the Modelfile; 0 always takes the most likely token."""

    repeat_penalty: float = Field(default=1.0, gt=0)
    """Penalty of repetitions in the Modelfile; 1 is none."""

    context: int = Field(default=4096, ge=16)
    """Longest conversation of the Modelfile in tokens, as far as the model reads so many."""


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
