"""Small indexes over random IVF codecs, with what they should contain."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qinco_lit.codec import Codec
from qinco_lit.quantizers import build_quantizer
from qinco_lit.search.decoders.additive import AdditiveDecoder, AdditiveFit
from qinco_lit.search.decoders.pairwise import PairwiseDecoder
from qinco_lit.search.index.bundle import Bundle
from qinco_lit.search.index.faiss_index import add_codes, empty_index
from qinco_lit.search.plain_scan import PlainScan
from qinco_lit.vectors.rows import unit_rows
from tests.models import random_quantizer

DIM, LISTS = 16, 12


@dataclass
class Indexed:
    """A bundle and its vectors: row i has ids[i], its list, codes and the codec's reconstruction."""

    bundle: Bundle
    ids: np.ndarray
    list_ids: np.ndarray
    codes: np.ndarray
    x_hat: np.ndarray
    x: np.ndarray
    queries: np.ndarray
    centroids: np.ndarray


def ivf_codec(
    *, num_steps: int = 4, codebook_size: int = 16, seed: int = 0, scale: float = 1.0, **config: Any
) -> Codec:
    """A random codec, with lists unless `num_lists` is None; `config` may be that of any quantizer."""
    given = {
        "embed_dim": 12,
        "hidden_dim": 20,
        "num_blocks": 1,
        "num_candidates": 4,
        "beam_size": 4,
        "num_lists": LISTS,
        **config,
    }
    quantizer = build_quantizer(DIM, num_steps=num_steps, codebook_size=codebook_size, **given)
    for number, (part, dims) in enumerate(zip(quantizer.parts, quantizer.part_slices, strict=True)):
        own = random_quantizer(part.dim, seed=seed + number, **part.config, num_lists=quantizer.num_lists)
        part.load_state_dict(own.parts[0].state_dict())
        quantizer.data_mean[dims], quantizer.data_std[dims] = own.data_mean, own.data_std
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if quantizer.rotation is not None:
            quantizer.rotation.copy_(torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0])
        if quantizer.num_lists is not None:
            quantizer.set_centroids(quantizer.denormalize(4 * torch.randn(LISTS, DIM, generator=generator)))
        for part in quantizer.parts:
            for number, step in enumerate(part.residual_steps()):
                # codewords of the size of what they describe, which the networks move a little
                for weight in step.network.parameters():
                    weight.mul_(0.3)
                step.codebook.mul_(0.8**number)
                if step.preselector is not None:
                    step.preselector.copy_(step.codebook)
        quantizer.data_mean.mul_(scale)
        quantizer.data_std.mul_(scale)
    return Codec(quantizer, precision="float32")


def indexed(
    num_rows: int = 400,
    *,
    metric: str = "l2",
    num_steps: int = 4,
    codebook_size: int = 16,
    pairwise: bool = True,
    seed: int = 0,
    plain: bool = False,
) -> Indexed:
    """Vectors around the lists of a random codec, or a plain one, encoded, with decoders fitted to their codes."""
    scale = 0.025 if metric == "cosine" else 1.0
    lists = {"num_lists": None} if plain else {}
    codec = ivf_codec(num_steps=num_steps, codebook_size=codebook_size, seed=seed, scale=scale, **lists)
    return indexed_by(codec, num_rows, metric=metric, pairwise=pairwise, scale=scale, seed=seed)


def indexed_by(
    codec: Codec, num_rows: int, *, metric: str = "l2", pairwise: bool = False, scale: float = 1.0, seed: int = 0
) -> Indexed:
    """The same with a given codec."""
    rng = np.random.default_rng(seed)
    by_residual = codec.num_lists is not None
    centroids = codec.coarse_centroids if by_residual else np.float32(scale * rng.normal(size=(LISTS, DIM)))
    noise = scale * rng.normal(size=(num_rows + 40, DIM))
    x = np.float32(centroids[rng.integers(0, LISTS, num_rows)] + 3 * noise[:num_rows])
    queries = np.float32(x[rng.integers(0, num_rows, 40)] + noise[num_rows:])
    if metric == "cosine":
        x, queries = unit_rows(x), unit_rows(queries)
    list_ids, codes = codec.encode(x) if by_residual else (nearest(centroids, x), codec.encode(x))
    ids = rng.permutation(5 * num_rows)[:num_rows].astype(np.int64)
    fit = AdditiveFit(codec.num_steps, codec.codebook_size, DIM)
    fit.add(codes, x - centroids[list_ids] if by_residual else x)
    additive, _ = fit.solve()
    index = empty_index(centroids, additive.codebooks, (0.0, 500.0), metric=metric, by_residual=by_residual)
    add_codes(index, list_ids, codes, ids)
    bundle = Bundle(codec, index, additive, _pairwise(additive, rng) if pairwise else None, metric, _config(codec))
    x_hat = codec.decode(codes, list_ids=list_ids if by_residual else None)
    return Indexed(bundle, ids, list_ids, codes, x_hat, x, queries, centroids)


def nearest(centroids: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The list of each vector, by brute force."""
    return np.int32(np.square(x[:, None] - centroids).sum(2).argmin(1))


def stored_ids(index: Any) -> np.ndarray:
    """Ids of all vectors of a faiss index, list after list."""
    parts = [ids for _, _, ids in PlainScan(index).contents()]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _pairwise(additive: AdditiveDecoder, rng: np.random.Generator) -> PairwiseDecoder:
    size = additive.codebooks.shape[1]
    tables = np.float32(0.1 * additive.codebooks.std() * rng.normal(size=(2, size**2, DIM)))
    list_codes = rng.integers(0, size, (LISTS, 2)).astype(np.uint8)
    return PairwiseDecoder([(0, 1), (2, 4)], tables, list_codes, additive)


def _config(codec: Codec) -> dict[str, Any]:
    return {"encoder": codec.quantizer.default_search.record()}
