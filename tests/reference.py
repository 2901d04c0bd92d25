"""The algorithm as slow loops in float64: one vector, one hypothesis, one candidate at a time.

Written from the papers' equations, sharing nothing with the package but the weights.
"""

import numpy as np
from numpy.typing import NDArray

from qinco_lit.quantizers import QINCo, Quantizer

Array = NDArray[np.float64]


def _weight(value: object) -> Array:
    return value.detach().double().numpy()  # type: ignore[attr-defined, no-any-return]


def first_layer(network: object) -> tuple[Array, Array]:
    """W and b of s = z + W [z; x_hat] + b; of a low-rank network the product of its factors, and zeros."""
    if network.concat is not None:  # type: ignore[attr-defined]
        return _weight(network.concat.weight), _weight(network.concat.bias)  # type: ignore[attr-defined]
    w = _weight(network.concat_out.weight) @ _weight(network.concat_in.weight)  # type: ignore[attr-defined]
    return w, np.zeros(len(w))


def f(step: object, codeword: Array, x_hat: Array) -> Array:
    """f_m(c, x_hat) as it is written: z = P_in c, s = z + W [z; x_hat] + b, blocks, P_out s (+ c)."""
    network = step.network  # type: ignore[attr-defined]
    z = codeword if network.in_proj is None else _weight(network.in_proj.weight) @ codeword
    w, b = first_layer(network)
    s = z + w @ np.concatenate([z, x_hat]) + b
    for up, down in zip(network.up, network.down, strict=True):
        s = s + _weight(down.weight) @ np.maximum(_weight(up.weight) @ s, 0)
    out = s if network.out_proj is None else _weight(network.out_proj.weight) @ s
    return out + codeword if network.outer_skip else out


def encode(quantizer: QINCo, x: Array, num_candidates: int, beam_size: int, budget: int | None = None) -> list[int]:
    """Codes of one normalised vector by beam search; with a budget, the best pre-selected pairs of the whole beam."""
    steps = quantizer.residual_steps()
    first = _weight(quantizer.first_codebook)
    ranked = sorted((float(((x - c) ** 2).sum()), i) for i, c in enumerate(first))
    beam = [([i], first[i]) for _, i in ranked[: beam_size if steps else 1]]
    for index, step in enumerate(steps):
        codebook = _weight(step.codebook)
        pairs = []
        for codes, x_hat in beam:
            distances = None if step.preselector is None else ((x - x_hat - _weight(step.preselector)) ** 2).sum(1)
            candidates = range(len(codebook))
            if num_candidates and budget is None:
                candidates = np.argsort(distances, kind="stable")[:num_candidates].tolist()
            pairs += [(0.0 if distances is None else distances[i], i, codes, x_hat) for i in candidates]
        if budget is not None:
            last = index == len(steps) - 1
            pairs = sorted(pairs, key=lambda pair: pair[0])[: min(budget, max(budget // 4, 16)) if last else budget]
        expanded = []
        for _, i, codes, x_hat in pairs:
            new = x_hat + f(step, codebook[i], x_hat)
            expanded.append((float(((x - new) ** 2).sum()), [*codes, i], new))
        expanded.sort(key=lambda entry: entry[0])
        keep = 1 if index == len(steps) - 1 else beam_size
        beam = [(codes, x_hat) for _, codes, x_hat in expanded[:keep]]
    return beam[0][0]


def decode(quantizer: QINCo, codes: list[int]) -> Array:
    """Normalised reconstruction of one vector's codes (any prefix)."""
    x_hat = _weight(quantizer.first_codebook)[codes[0]]
    for step, i in zip(quantizer.residual_steps(), codes[1:], strict=False):
        x_hat = x_hat + f(step, _weight(step.codebook)[i], x_hat)
    return x_hat


# --- products of quantizers: raw vectors, as every part has its own mean and scale ------------------------------------


def columns(product: Quantizer) -> list[tuple[int, int]]:
    """(part, step) of every column of the codes."""
    steps: list[int] = product.config["part_steps"]
    every = [(part, step) for part, number in enumerate(steps) for step in range(number)]
    return every if product.config["order"] == "parts" else sorted(every, key=lambda entry: (entry[1], entry[0]))


def rotation(product: Quantizer) -> Array:
    """R of y = R x."""
    return np.eye(product.dim) if product.rotation is None else _weight(product.rotation)


def product_encode(product: Quantizer, x: Array, num_candidates: int, beam_size: int) -> list[int]:
    """Codes of one raw vector: those of each part's dimensions of R x."""
    y, found, first = rotation(product) @ x, [], 0
    for part in product.parts:
        dims = slice(first, first + part.dim)
        own = (y[dims] - _weight(product.data_mean[dims])) / _weight(product.data_std[dims])
        found.append(encode(part, own, num_candidates, beam_size))
        first += part.dim
    return [found[part][step] for part, step in columns(product)]


def product_decode(product: Quantizer, codes: list[int]) -> Array:
    """Raw reconstruction of one vector's codes (any prefix): a part that has none is at its mean."""
    own: list[list[int]] = [[] for _ in product.parts]
    for (part, _), code in zip(columns(product), codes, strict=False):
        own[part].append(code)
    parts = zip(product.parts, own, strict=True)
    normalized = np.concatenate([decode(part, some) if some else np.zeros(part.dim) for part, some in parts])
    return rotation(product).T @ (normalized * _weight(product.data_std) + _weight(product.data_mean))
