"""Params of attention patterns: which keys a query sees, instead of all.

i is the position of a query and j that of a key, both from 0. Patterns look both ways in encoders; with causal
attention a query sees no later keys besides. docs/attention.md compares them.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lissom.section import Section

Numbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class _PatternParams(Section):
    blocks: Numbers | None = None
    """Numbers of the blocks (0-based) that have the pattern; null is all."""

    heads: Numbers | None = None
    """Numbers of the heads (0-based) that have the pattern; null is all. Heads without any pattern see all keys."""

    global_tokens: int = Field(default=0, ge=0)
    """So many first tokens of a text are seen by all tokens, and see all: 1 is [CLS]."""


class BlockLocal(_PatternParams):
    """Keys of the query's own block of the text: floor(i / size) = floor(j / size)."""

    pattern: Literal["block_local"]

    size: int = Field(default=128, ge=1)
    """Tokens of a block."""


class FixedRadius(_PatternParams):
    """Keys that are near the query: |i - j| <= radius."""

    pattern: Literal["fixed_radius"]

    radius: int = Field(default=128, ge=0)
    """Largest distance in tokens."""


class BlockStrided(_PatternParams):
    """Keys at multiples of a stride from the query: i = j modulo stride."""

    pattern: Literal["block_strided"]

    stride: int = Field(default=128, ge=1)
    """The stride in tokens. The cost is n^2 / stride pairs: linear in n only if the stride grows with n."""


class SparseTransformer(_PatternParams):
    """The two factors of the Sparse Transformer, through which any token reaches any other in two steps.

    `strided`: keys within a stride, and keys at multiples of it. `fixed`: keys of the query's own block, and the last
    keys of every block, which summarise it (Child et al. 2019, arXiv:1904.10509, section 4.3).
    """

    pattern: Literal["sparse_transformer"]

    form: Literal["strided", "fixed"] = "strided"
    """The factorisation."""

    stride: int = Field(default=128, ge=1)
    """l of the paper: the stride, or the size of a block; about the root of the length."""

    summary: int = Field(default=8, ge=1)
    """c of the paper, of `fixed`: how many tokens summarise a block."""

    part: Literal["both", "local", "distant"] = "both"
    """`both` merges the factors in every head. Two patterns with one part each, for every second block or for different
    heads, are the paper's other two ways."""

    @model_validator(mode="after")
    def _summary_fits_the_block(self) -> "SparseTransformer":
        if self.form == "fixed" and self.summary > self.stride:
            raise ValueError(f"summary is {self.summary}, more than the {self.stride} tokens of a block")
        return self


class LongNet(_PatternParams):
    """Dilated attention: near keys all, far keys ever fewer (Ding et al. 2023, arXiv:2307.02486).

    Every pair of segment and dilation is a branch: within a segment of the text, every dilation-th token attends to the
    same tokens. Branches are weighted by their softmax denominators, which is one softmax over the keys of all.
    """

    pattern: Literal["longnet"]

    segments: Numbers = (2048, 4096, 8192, 16384, 32768)
    """Tokens of a segment, for every branch."""

    dilations: Numbers = (1, 2, 4, 6, 12)
    """Distance between the tokens that take part, for every branch; the first is 1, so that no token is left out."""

    offsets: Literal["alternating", "contiguous"] = "alternating"
    """Which tokens the heads of a branch take: head h starts at token h modulo dilation, or, as in the released code,
    contiguous groups of heads have the same."""

    detach_weights: bool = False
    """Take the weights of branches for constants in the backward pass, as the released code does."""

    @model_validator(mode="after")
    def _branches_fit(self) -> "LongNet":
        if len(self.segments) != len(self.dilations):
            raise ValueError(f"there are {len(self.segments)} segments and {len(self.dilations)} dilations, one each")
        if self.dilations[0] != 1:
            raise ValueError(f"the first dilation is {self.dilations[0]}; with 1 every token takes part somewhere")
        for name, numbers in (("segments", self.segments), ("dilations", self.dilations)):
            if 0 in numbers or list(numbers) != sorted(numbers):
                raise ValueError(f"{name} are {list(numbers)}; they must be at least 1 and not decrease")
        return self


Pattern = Annotated[
    BlockLocal | FixedRadius | BlockStrided | SparseTransformer | LongNet, Field(discriminator="pattern")
]
"""All patterns."""
