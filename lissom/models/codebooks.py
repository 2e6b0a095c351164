"""Product quantisation: every few weights of a row are one of a few vectors (Stock et al. 2020, arXiv:1907.05686).

A row is cut into blocks of neighbouring inputs; a codebook of K centroids holds what blocks may be, and a weight is
stored as one code per block. K-means finds the centroids that change the matrix least.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.models.layers import AskedForItsType, Indivisible, StoredLinear

_TRIES = 100
_SHIFT = 1e-6
_CHUNK = 32_768


def k_means(vectors: Tensor, count: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return centroids `[count, b]` and the code of every vector, `[n]`.

    It starts from vectors drawn at random. A centroid without vectors takes half of those of the most used one, moved
    apart by a tiny distance (Fan et al. 2020, arXiv:2004.07320, code of the authors).

    Args:
        vectors: `[n, b]`.
        count: number of centroids; of fewer distinct vectors, all of them are centroids.
        iterations: of Lloyd's algorithm.
        generator: draws the start.
    """
    distinct = torch.unique(vectors, dim=0)
    if len(distinct) <= count:
        centroids = torch.cat([distinct, distinct[:1].expand(count - len(distinct), -1)])
        return centroids, nearest(vectors, centroids)
    centroids = distinct[torch.randperm(len(distinct), generator=generator)[:count].to(vectors.device)].clone()
    for _ in range(iterations):
        codes = _filled(vectors, centroids, generator)
        sums = torch.zeros_like(centroids).index_add_(0, codes, vectors)
        sizes = torch.bincount(codes, minlength=count).to(vectors.dtype)[:, None]
        centroids = torch.where(sizes > 0, sums / sizes.clamp_min(1), centroids)
    return centroids, nearest(vectors, centroids)


def nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Return the number of the nearest centroid of every vector `[n, b]`, `[n]`."""
    lengths = centroids.square().sum(1)
    parts = [(lengths - 2 * part @ centroids.T).argmin(1) for part in torch.split(vectors, _CHUNK)]
    return torch.cat(parts)


def _filled(vectors: Tensor, centroids: Tensor, generator: torch.Generator) -> Tensor:
    """Return the codes after every centroid has got vectors, as far as that can be; centroids change in place."""
    codes = nearest(vectors, centroids)
    for _ in range(_TRIES):
        sizes = torch.bincount(codes, minlength=len(centroids))
        empty = (sizes == 0).nonzero().flatten()
        if not len(empty):
            break
        fullest = int(sizes.argmax())
        shift = _SHIFT**0.5 * torch.randn(vectors.shape[1], generator=generator).to(centroids)
        centroids[empty[0]] = centroids[fullest] + shift
        centroids[fullest] -= shift
        codes = nearest(vectors, centroids)
    return codes


def encode(weight: Tensor, block: int, count: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the codebook `[count, block]` and the codes `[rows, columns / block]` int64 of a matrix."""
    vectors = weight.detach().float().reshape(-1, block)
    codebook, codes = k_means(vectors, count, iterations, torch.Generator().manual_seed(seed))
    return codebook, codes.view(len(weight), -1)


def decode(codebook: Tensor, codes: Tensor) -> Tensor:
    """Return the matrix `[rows, columns]` of a codebook `[count, block]` and codes `[rows, columns / block]`."""
    return F.embedding(codes, codebook).flatten(1)


class CodebookLinear(StoredLinear):
    """A linear map whose weights are codes of blocks; the codebook is float16."""

    codes: Tensor
    codebook: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, codebook: Tensor, bias: Tensor | None) -> None:
        super().__init__(codes.shape[1] * codebook.shape[1], codes.shape[0])
        self.register_buffer("codes", codes.to(torch.uint8))
        self.register_buffer("codebook", codebook.detach().half())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        return F.linear(input, self.matrix(), self.bias)

    def matrix(self) -> Tensor:
        """Return the weights as floats, `[out, in]`."""
        return decode(self.codebook.float(), self.codes.int())


class CodebookEmbedding(nn.Module):
    """An embedding whose rows are codes of blocks; only the blocks of rows that are looked up become floats."""

    codes: Tensor
    codebook: Tensor

    def __init__(self, codes: Tensor, codebook: Tensor) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = len(codes), codes.shape[1] * codebook.shape[1]
        self.register_buffer("codes", codes.to(torch.uint8))
        self.register_buffer("codebook", codebook.detach().half())

    @property
    def represented(self) -> int:
        """Return the number of weights that the codes stand for."""
        return self.num_embeddings * self.embedding_dim

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        codes = F.embedding(input, self.codes).int()
        return F.embedding(codes, self.codebook.float()).flatten(-2)

    def matrix(self) -> Tensor:
        """Return the rows as floats, `[rows, d]`."""
        return decode(self.codebook.float(), self.codes.int())


class _TrainedCodes(nn.Module, Indivisible):
    """Codes that stay, and a codebook that is trained.

    The gradient of a centroid is the mean over the blocks that are it, not their sum (Stock et al. 2020, equation 5).
    """

    codes: Tensor
    shares: Tensor

    def __init__(self, weight: Tensor, block: int, count: int, iterations: int, seed: int) -> None:
        super().__init__()
        codebook, codes = encode(weight, block, count, iterations, seed)
        self.codebook = nn.Parameter(codebook)
        self.register_buffer("codes", codes)
        sizes = torch.bincount(codes.flatten(), minlength=count).clamp_min(1)
        self.register_buffer("shares", 1 / sizes.float()[:, None])

    def centroids(self) -> Tensor:
        """Return the codebook, whose gradient is divided by the number of blocks."""
        shared = self.codebook * self.shares
        return shared + (self.codebook - shared).detach()

    def matrix(self) -> Tensor:
        """Return the matrix."""
        return decode(self.centroids(), self.codes)


class TrainedCodebookLinear(AskedForItsType, _TrainedCodes):
    """A linear map whose codebook is trained."""

    def __init__(self, linear: nn.Linear, block: int, count: int, iterations: int, seed: int) -> None:
        super().__init__(linear.weight, block, count, iterations, seed)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        return F.linear(input, self.matrix(), self.bias)

    def converted(self) -> CodebookLinear:
        """Return the stored form."""
        return CodebookLinear(self.codes, self.codebook, self.bias)


class TrainedCodebookEmbedding(_TrainedCodes):
    """An embedding whose codebook is trained."""

    def __init__(self, table: nn.Embedding, block: int, count: int, iterations: int, seed: int) -> None:
        super().__init__(table.weight, block, count, iterations, seed)
        self.num_embeddings, self.embedding_dim = table.weight.shape

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        return F.embedding(F.embedding(input, self.codes), self.centroids()).flatten(-2)

    def converted(self) -> CodebookEmbedding:
        """Return the stored form."""
        return CodebookEmbedding(self.codes, self.codebook)
