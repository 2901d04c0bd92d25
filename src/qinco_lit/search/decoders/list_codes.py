"""Codes of the coarse lists themselves: the extra columns that the pairwise decoder pairs with a vector's codes."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Integer
from torch import Tensor

from qinco_lit.quantizers.kmeans import nearest_codeword, split_pairs

_ENOUGH_GAIN = 1e-4  # relative gain of the error in an iteration below which a level is done


def quantize_lists(
    centroids: Float32[np.ndarray, "lists dim"],
    populations: Integer[np.ndarray, " populations"],
    *,
    num_codes: int,
    codebook_size: int,
    iterations: int = 50,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Integer[np.ndarray, "lists codes"]:
    """Residual k-means codes of the centroids, each weighted by how many vectors its list holds.

    Args:
        centroids: of the lists; any number of them.
        populations: vectors in each list.
        num_codes: levels of the residual k-means, may be 0.
        codebook_size: codewords a level; with fewer lists than that, every list has its own code at the first.
        iterations: at most, of a level.
        seed: of the codewords a level starts from.
        device: where to compute.

    Returns:
        (num_lists, num_codes), uint8, or uint16 for codebooks of more than 256.
    """
    if len(populations) != len(centroids):
        raise ValueError(f"{len(populations)} populations do not fit {len(centroids)} centroids")
    generator = torch.Generator().manual_seed(seed)
    weights = torch.from_numpy(populations.astype(np.float32)).to(device)
    weights += max(1e-3 * float(weights.mean()), 1e-6)  # an empty list may be filled later: it counts a little
    residual = torch.from_numpy(np.array(centroids)).to(device)
    residual -= (weights / weights.sum()) @ residual
    codes = np.zeros((len(centroids), num_codes), np.uint8 if codebook_size <= 256 else np.uint16)
    for level in range(num_codes):
        codebook = _weighted_kmeans(residual, weights, codebook_size, iterations, generator)
        assigned = nearest_codeword(residual, codebook)
        residual -= codebook[assigned]
        codes[:, level] = assigned.cpu().numpy()
    return codes


def _weighted_kmeans(
    x: Float[Tensor, "rows dim"],
    weights: Float[Tensor, " rows"],
    codebook_size: int,
    iterations: int,
    generator: torch.Generator,
) -> Float[Tensor, "codebook dim"]:
    """Lloyd's algorithm from rows drawn by weight; the rows themselves where there are no more than codewords."""
    if len(x) <= codebook_size:
        return x.clone()
    codebook = x[torch.multinomial(weights.cpu(), codebook_size, generator=generator).to(x.device)]
    error = float("inf")
    for _ in range(iterations):
        assigned = nearest_codeword(x, codebook)
        codebook = _weighted_means(x, weights, assigned, codebook, generator)
        before, error = error, float(weights @ (x - codebook[assigned]).square().sum(1))
        if error >= (1 - _ENOUGH_GAIN) * before:
            break
    return codebook


def _weighted_means(
    x: Float[Tensor, "rows dim"],
    weights: Float[Tensor, " rows"],
    assigned: Int[Tensor, " rows"],
    codebook: Float[Tensor, "codebook dim"],
    generator: torch.Generator,
) -> Float[Tensor, "codebook dim"]:
    """Each codeword at the mean of its rows; those without rows split the rows of the most populated ones."""
    sums = torch.zeros_like(codebook).index_add_(0, assigned, weights[:, None] * x)
    totals = torch.zeros(len(codebook), device=x.device).index_add_(0, assigned, weights)
    means = torch.where(totals[:, None] > 0, sums / totals.clamp(min=1e-30)[:, None], codebook)
    spread = x.std(0, correction=0)
    for empty, parent in split_pairs(torch.bincount(assigned, minlength=len(codebook))):
        means[empty] = means[parent] + 1e-2 * spread * torch.randn(x.shape[1], generator=generator).to(x.device)
    return means
