"""What encoding and decoding a vector costs, in multiplications (docs/choosing.md has the formulas)."""

from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.build import Quantizer
from qinco_lit.quantizers.product import ProductQINCo
from qinco_lit.quantizers.qinco import QINCo


def encode_multiplications(quantizer: Quantizer, search: Search) -> int:
    """Multiplications of matrix products to encode one vector in float32; a list id is taken as known.

    Args:
        quantizer: its sizes count.
        search: of the encoding.
    """
    return _rotation(quantizer) + sum(_encode(part, search) for part in quantizer.parts)


def decode_multiplications(quantizer: Quantizer) -> int:
    """Multiplications of matrix products to decode all codes of one vector, one step after the other."""
    return _rotation(quantizer) + sum(_decode(part) for part in quantizer.parts)


def _rotation(quantizer: Quantizer) -> int:
    return quantizer.dim**2 if isinstance(quantizer, ProductQINCo) and quantizer.rotation is not None else 0


def _encode(part: QINCo, search: Search) -> int:
    dim, embed, hidden, blocks = part.dim, part.embed_dim, part.hidden_dim, int(part.config["num_blocks"])
    size, ivf = part.codebook_size, part.num_lists is not None
    per_pair = (2 * blocks - 1) * embed * hidden + _out_projection(part)
    total, width = (0, 1) if ivf else (size * dim, min(search.beam_size, size))
    for index, _ in enumerate(part.residual_steps(), start=1):
        own = search.for_step(first_of_list=index == 1 and ivf, last=index == len(part.steps))
        if own.candidate_budget is not None:
            pairs = min(own.candidate_budget, width * size)
        else:
            pairs = width * (own.num_candidates or size)
        total += 0 if own.tries_all else width * size * dim
        total += width * (dim * embed + embed * hidden) + pairs * per_pair
        width = min(search.beam_size, pairs)
    return total


def _decode(part: QINCo) -> int:
    dim, embed, hidden, blocks = part.dim, part.embed_dim, part.hidden_dim, int(part.config["num_blocks"])
    return len(part.steps) * (dim * embed + 2 * blocks * embed * hidden + _out_projection(part))


def _out_projection(part: QINCo) -> int:
    return 0 if part.embed_dim == part.dim else part.embed_dim * part.dim
