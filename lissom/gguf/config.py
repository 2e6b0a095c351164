"""Params of GGUF files."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lissom.section import Section

FileTypeName = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
]  # fmt: skip

Pooling = Literal["mean", "cls"]


def _without_quotes(text: str) -> str:
    if '"""' in text:
        raise ValueError('a Modelfile cannot hold a text with """, which ends texts there')
    return text


class GgufParams(Section):
    """Files for llama.cpp and Ollama (gguf in export.formats), and what they must prove.

    Language models continue texts; of BERT and ModernBERT, the encoder without its head gives embeddings.
    """

    types: tuple[FileTypeName, ...] = Field(default=("q8_0", "q4_k_m"), min_length=1)
    """Types of the files; the first one is the Modelfile's."""

    calibration_tokens: int = Field(default=8192, ge=0)
    """Tokens of the training texts from which the importance of every column is measured; 0 quantises without."""

    proof_tokens: int = Field(default=4096, ge=64)
    """Tokens of the test texts on which llama.cpp is compared with torch."""

    prompts: Annotated[int, Field(ge=0)] | tuple[Annotated[str, Field(min_length=1)], ...] = 16
    """Prompts whose greedy answer by every file is compared with torch's: texts of your own, which a model for chat
    reads as messages of the user, or the number of beginnings of test texts; 0 compares none."""

    f32_tolerance: float = Field(default=0.01, gt=0)
    """Largest difference of any logit between torch and llama.cpp with the weights in float32."""

    max_kl_divergence: dict[FileTypeName, float] = Field(default_factory=dict)
    """Largest mean KL divergence from torch's distributions, by type, in place of the bounds of docs/gguf.md."""

    min_cosine: dict[FileTypeName, float] = Field(default_factory=dict)
    """Embeddings: smallest cosine of any text's embedding with torch's, by type, in place of the bounds of
    docs/gguf.md."""

    pooling: Pooling = "mean"
    """Embeddings: the mean over all tokens, or the vector of the first one."""

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the model in Ollama; null takes the task's."""

    license: Annotated[str, AfterValidator(_without_quotes)] | None = None
    """Licence of the model, for the file's metadata and the Modelfile."""

    requires: str | None = Field(default=None, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    """Oldest version of Ollama that may run the model (REQUIRES of the Modelfile)."""

    system: Annotated[str, AfterValidator(_without_quotes)] | None = None
    """System prompt of the Modelfile."""

    temperature: float = Field(default=0.7, ge=0)
    """Temperature of the Modelfile; 0 always takes the most likely token."""

    repeat_penalty: float = Field(default=1.0, gt=0)
    """Penalty of repetitions in the Modelfile; 1 is none."""

    context: int = Field(default=4096, ge=16)
    """Longest conversation of the Modelfile in tokens, as far as the model reads so many."""
