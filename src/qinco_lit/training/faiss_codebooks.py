"""Codebooks of faiss' residual quantizer: what QINCo1's recipe starts from."""

import faiss
import numpy as np
from faiss.contrib.inspect_tools import get_additive_quantizer_codebooks
from jaxtyping import Float32


def residual_codebooks(
    x: Float32[np.ndarray, "rows dim"], num_steps: int, codebook_size: int, *, seed: int
) -> Float32[np.ndarray, "steps codebook dim"]:
    """Train a residual quantizer on the vectors and return its codebooks.

    Args:
        x: training vectors, float32.
        num_steps: residual steps (M).
        codebook_size: codewords per step (K), a power of two.
        seed: of the rows that k-means starts from.

    Raises:
        ValueError: faiss counts codewords in bits.
    """
    bits = (codebook_size - 1).bit_length()
    if codebook_size != 1 << bits:
        raise ValueError(
            f"recipe.initial_codebooks=faiss_rq needs a power of two, model.codebook_size is {codebook_size}"
        )
    quantizer = faiss.ResidualQuantizer(x.shape[1], num_steps, bits)
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.max_beam_size = 5
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1  # few vectors are the user's choice: no warning on the terminal
    quantizer.train(np.ascontiguousarray(x))
    return np.stack(get_additive_quantizer_codebooks(quantizer))  # type: ignore[no-untyped-call]
