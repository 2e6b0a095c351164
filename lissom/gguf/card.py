"""The card of GGUF files: what was compared with torch, and how it came out."""

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


class GgufFile(Section):
    """A file of one type with its comparison."""

    type: str
    file: str
    bytes: int
    sha256: str
    bits_per_weight: float
    agreement: Agreement
    bound: float | None
    """Largest mean KL divergence; None for F32, whose logits are bounded instead."""


class Card(Section):
    """card.json: the proof of the files beside it."""

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
            "| type | MB | bits per weight | KL divergence | 99.9 % | bound | same top token | perplexity ratio |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for file in self.files:
            found = file.agreement
            rows.append(
                f"| {file.type} | {file.bytes / 1e6:.1f} | {file.bits_per_weight:.2f} | {found.mean_kl_divergence:.4f} "
                f"| {found.kl_divergence_999:.3f} | {'-' if file.bound is None else f'{file.bound:g}'} "
                f"| {found.same_top:.1%} | {found.perplexity_ratio:.4f} |"
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
            "Digests (SHA-256):",
            "",
            *(f"- {file.file}: {file.sha256}" for file in self.files),
        ]  # fmt: skip
        return "\n".join(lines) + "\n"
