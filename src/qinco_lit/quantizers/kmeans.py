"""Nearest codewords, k-means and greedy residual k-means: the codebooks a training starts from."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qinco_lit.quantizers.chunks import chunks
from qinco_lit.quantizers.workers import for_each

# Scores that are held at once: of a chunk of rows and a tile of codewords. On a CPU they should stay in the cache of a
# core, and small chunks give every core work.
_TILE_ROWS, _TILE_CODEWORDS = {"cpu": 4_096, "cuda": 16_384}, {"cpu": 4_096, "cuda": 16_384}
_TILE_SCORES = {"cpu": 1 << 20, "cuda": 1 << 24}
_ROWS_PER_SUM = 16_384  # of squares

_Value = TypeVar("_Value")


def half_squared_norms(codebook: Float[Tensor, "codebook dim"]) -> Float[Tensor, " codebook"]:
    """0.5 |c|^2 of every codeword, of some at a time."""
    return torch.cat([0.5 * tile.square().sum(-1) for tile in torch.split(codebook, _ROWS_PER_SUM)])


def nearest_codeword(
    x: Float[Tensor, "rows dim"],
    codebook: Float[Tensor, "codebook dim"],
    half_norms: Float[Tensor, " codebook"] | None = None,
) -> Int[Tensor, " rows"]:
    """Index of the codeword with the smallest squared L2 to each row; of equal ones the first, where a tile has one.

    A million codewords (coarse centroids) are compared tile by tile. On a CPU chunks of rows are compared side by side,
    one core each. Vectors should be near the origin, for the rounding of the product.

    Args:
        x: the rows.
        codebook: what they are compared with.
        half_norms: `half_squared_norms` of it, where they are known already.
    """
    norms = half_squared_norms(codebook) if half_norms is None else half_norms
    kind = "cpu" if x.device.type == "cpu" else "cuda"
    size = _TILE_CODEWORDS[kind]
    tiles = list(zip(torch.split(codebook, size), torch.split(norms, size), strict=True))
    rows = max(1, min(_TILE_ROWS[kind], _TILE_SCORES[kind] // len(tiles[0][0])))
    nearest = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def compare(start: int, stop: int) -> None:
        chunk, lowest = x[start:stop], None
        for number, (tile, own) in enumerate(tiles):
            index, score = _smallest(torch.addmm(own, chunk, tile.T, alpha=-1))
            if lowest is not None:
                closer = score < lowest
                index = torch.where(closer, index + number * size, nearest[start:stop])
                score = torch.where(closer, score, lowest)
            nearest[start:stop], lowest = index, score

    for_each(compare, chunks(len(x), rows), x.device)
    return nearest


def _smallest(scores: Float[Tensor, "rows codewords"]) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Place and value of the smallest score of each row, of equal ones the first."""
    if scores.device.type != "cpu":
        smallest = scores.min(1)
        return smallest.indices, smallest.values
    places = torch.from_numpy(scores.numpy().argmin(1))  # numpy takes half of torch's time
    return places, scores.gather(1, places[:, None])[:, 0]


class Kept(Generic[_Value]):
    """Calls a function of tensors again only when one of them is another tensor than before, or was written to.

    Copies and pickles hold the function alone.
    """

    def __init__(self, function: Callable[..., _Value]) -> None:
        self._function = function
        self._seen: list[tuple[weakref.ref[Tensor], int | None]] = []
        self._value: _Value | None = None

    def __call__(self, *tensors: Tensor) -> _Value:
        """The function's value for these tensors."""
        same = len(self._seen) == len(tensors) and all(
            seen() is tensor and version is not None and version == _version(tensor)
            for (seen, version), tensor in zip(self._seen, tensors, strict=True)
        )
        if not same or self._value is None:
            self._value = self._function(*tensors)
            self._seen = [(weakref.ref(tensor), _version(tensor)) for tensor in tensors]
        return self._value

    def __reduce__(self) -> Any:
        return Kept, (self._function,)


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; tensors of inference mode do not tell."""
    return None if tensor.is_inference() else tensor._version


def kmeans(
    x: Float[Tensor, "rows dim"],
    codebook_size: int,
    *,
    iterations: int,
    generator: torch.Generator,
    split_empty: bool,
    advance: Callable[[], None] = lambda: None,
) -> Float[Tensor, "codebook dim"]:
    """Lloyd's algorithm from uniform noise with the data's mean and standard deviation per dimension.

    Args:
        x: the data.
        codebook_size: number of centroids; may exceed the rows, the surplus then stays where it started.
        iterations: Lloyd iterations.
        generator: source of the noise, on the CPU so that every device draws the same.
        split_empty: after each iteration but the last, a centroid without vectors becomes a copy of the most
            populated one moved by a little noise. Without it such a centroid stays where it is, as in the papers.
        advance: called after each iteration.
    """
    mean, std = x.mean(0), x.std(0, correction=0)
    noise = torch.rand((codebook_size, x.shape[1]), generator=generator).to(x.device)
    centroids = mean + (noise - 0.5) * 12**0.5 * std  # standardised uniform noise
    for iteration in range(iterations):
        assigned = nearest_codeword(x, centroids)
        counts = torch.bincount(assigned, minlength=codebook_size)
        sums = torch.zeros_like(centroids).index_add_(0, assigned, x)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
        if split_empty and iteration < iterations - 1:
            for empty, parent in split_pairs(counts):
                jitter = torch.randn(x.shape[1], generator=generator).to(x.device)
                centroids[empty] = centroids[parent] + 1e-2 * std * jitter
        advance()
    return centroids


def split_pairs(counts: Int[Tensor, " codebook"]) -> list[tuple[int, int]]:
    """(empty, parent) pairs: each codeword that was never chosen takes half of the then most chosen one's vectors."""
    remaining = counts.double().cpu()
    pairs = []
    for empty in (remaining == 0).nonzero().flatten().tolist():
        parent = int(remaining.argmax())
        if remaining[parent] < 2:
            break
        remaining[parent] /= 2
        remaining[empty] = remaining[parent]
        pairs.append((int(empty), parent))
    return pairs


def residual_kmeans(
    x: Float[Tensor, "rows dim"],
    num_steps: int,
    codebook_size: int,
    *,
    iterations: int,
    generator: torch.Generator,
    split_empty: bool,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Float[Tensor, "codebook dim"]]:
    """Codebooks of a greedy residual quantizer, one after the other: each is the k-means of what is left of x."""
    residual = x.clone()
    options: dict[str, Any] = {"iterations": iterations, "split_empty": split_empty, "advance": advance}
    for _ in range(num_steps):
        codebook = kmeans(residual, codebook_size, generator=generator, **options)
        residual -= codebook[nearest_codeword(residual, codebook)]
        yield codebook
