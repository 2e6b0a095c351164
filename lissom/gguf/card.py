"""The card of GGUF files: what was compared with torch, and how it came out."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from lissom.gguf.config import FileTypeName, Pooling
from lissom.section import Section

CARD_JSON, CARD_MARKDOWN = "card.json", "card.md"


class Agreement(Section):
    """How far llama.cpp's distributions of the next token are from torch's."""

    tokens: int
    """Number of predicted tokens."""
    max_logit_difference: float
    mean_kl_divergence: float
    """In nats."""
    kl_divergence_999: float
    """The 99.9th percentile."""
    same_top: float
    """Share of positions with the same most likely token."""
    perplexity: float
    perplexity_ratio: float
    """llama.cpp's perplexity over torch's."""
    probability_rms: float
    """Root mean square of the change of the right token's probability."""


class Closeness(Section):
    """How far llama.cpp's embeddings are from torch's."""

    texts: int
    cosine_min: float
    cosine_mean: float


class _File(Section):
    """A file of one type."""

    type: FileTypeName
    file: str
    bytes: int
    sha256: str
    bits_per_weight: float


class Changed(Section):
    """A prompt that a file answers otherwise than torch."""

    prompt: str
    torch: str
    file: str


class Answers(Section):
    """Greedy answers to prompts."""

    prompts: int
    equal: float
    """Share of the prompts with torch's answer, token by token."""
    changed: tuple[Changed, ...]
    """The first of the others."""


class GgufFile(_File):
    """A file of a language model with its comparison."""

    agreement: Agreement
    answers: Answers | None
    """None without prompts."""
    bound: float | None
    """Largest mean KL divergence; None for F32, whose logits are bounded instead."""


class EmbeddingFile(_File):
    """A file of an encoder with its comparison."""

    agreement: Closeness
    bound: float
    """Smallest cosine of any text."""


class Card(Section):
    """card.json of a language model: the proof of the files beside it."""

    kind: Literal["language_model"] = "language_model"
    name: str
    base: str
    """Source of the base model."""
    architecture: str
    """llama.cpp's name of it."""
    parameters: int
    """In the file: more than in the network where blocks were padded or a factorised word table was multiplied out."""
    network_parameters: int
    heads: tuple[int, ...]
    """Query heads of every block in the file."""
    neurons: tuple[int, ...]
    """Feed-forward neurons of every block in the file."""
    context: int
    f32: Agreement
    """The comparison with all weights in float32: what differs there is llama.cpp's arithmetic alone."""
    f32_tolerance: float
    files: tuple[GgufFile, ...]
    texts_tokenized: int
    """Texts whose tokens were compared, all of them equal."""
    conversations_rendered: int
    """Conversations whose text by the chat template was compared, all of them equal."""
    calibration_tokens: int

    def markdown(self) -> str:
        """Return the card for people."""
        rows = [
            "| type | MB | bits per weight | KL divergence | 99.9 % | bound | same top token | perplexity ratio "
            "| same answers |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for file in self.files:
            agreement = file.agreement
            rows.append(
                f"| {file.type} | {file.bytes / 1e6:.1f} | {file.bits_per_weight:.2f} "
                f"| {agreement.mean_kl_divergence:.4f} | {agreement.kl_divergence_999:.3f} "
                f"| {'-' if file.bound is None else f'{file.bound:g}'} "
                f"| {agreement.same_top:.1%} | {agreement.perplexity_ratio:.4f} "
                f"| {'-' if file.answers is None else f'{file.answers.equal:.0%} of {file.answers.prompts}'} |"
            )
        count = self.conversations_rendered
        rendered = f", and {count} conversations the same text" if count else ""
        own = self.network_parameters
        more = f" ({own:,} in the network, before padding and multiplying out)" if own < self.parameters else ""
        lines = [
            f"# {self.name}",
            "",
            f"From {self.base}; {len(self.neurons)} blocks, {self.parameters:,} parameters{more}.",
            "",
            f"llama.cpp was compared with torch on {self.f32.tokens:,} tokens of the test texts. With all weights in "
            f"float32 their logits differ by up to {self.f32.max_logit_difference:.2g} "
            f"(allowed: {self.f32_tolerance:g}).",
            "",
            *rows,
            "",
            f"KL divergences are from torch's distributions, in nats. {self.texts_tokenized} texts have the same "
            f"tokens in llama.cpp{rendered}.",
            "",
            *_changes(self.files),
            *_digests(self.files),
        ]
        return "\n".join(lines) + "\n"


class EmbeddingCard(Section):
    """card.json of an encoder: the proof of the files beside it."""

    kind: Literal["embeddings"] = "embeddings"
    name: str
    base: str
    """Source of the base model."""
    architecture: str
    """llama.cpp's name of it."""
    parameters: int
    pooling: Pooling
    width: int
    """Of an embedding."""
    context: int
    f32: Closeness
    """The comparison with all weights in float32."""
    files: tuple[EmbeddingFile, ...]
    texts_tokenized: int
    """Texts whose tokens were compared, all of them equal."""
    calibration_tokens: int

    def markdown(self) -> str:
        """Return the card for people."""
        rows = ["| type | MB | bits per weight | smallest cosine | mean cosine | bound |", "|---|---|---|---|---|---|"]
        rows += [
            f"| {file.type} | {file.bytes / 1e6:.1f} | {file.bits_per_weight:.2f} | {file.agreement.cosine_min:.5f} "
            f"| {file.agreement.cosine_mean:.5f} | {file.bound:g} |"
            for file in self.files
        ]
        pooled = "the mean over all tokens" if self.pooling == "mean" else "the vector of the first token"
        lines = [
            f"# {self.name}",
            "",
            f"The encoder of a model from {self.base}, without its head: {self.parameters:,} parameters. An embedding "
            f"has {self.width} numbers: {pooled}.",
            "",
            f"llama.cpp's embeddings were compared with torch's on {self.f32.texts} test texts, which have the same "
            f"tokens in both. With all weights in float32 the smallest cosine is {self.f32.cosine_min:.6f}.",
            "",
            *rows,
            "",
            *_digests(self.files),
        ]
        return "\n".join(lines) + "\n"


def _changes(files: Sequence[GgufFile]) -> list[str]:
    """Return the changed answers, a paragraph each."""
    return [
        line
        for file in files
        for change in (file.answers.changed if file.answers else ())
        for line in (f"{file.type} answers {change.prompt!r} with {change.file!r}, torch with {change.torch!r}.", "")
    ]


def _digests(files: Sequence[_File]) -> list[str]:
    return ["Digests (SHA-256):", "", *(f"- {file.file}: {file.sha256}" for file in files)]


AnyCard = Annotated[Card | EmbeddingCard, Field(discriminator="kind")]
