"""Random products of quantizers, and the way from their vectors to their parts' and back."""

from typing import Any

import torch

from qinco_lit.codec import Codec
from qinco_lit.quantizers import Quantizer, build_quantizer
from tests.models import alone, random_quantizer

DIM = 12


def random_rotation(dim: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn((dim, dim), generator=torch.Generator().manual_seed(seed))).Q


def random_product(dim: int = DIM, *, seed: int = 0, **config: Any) -> Quantizer:
    """Parts of random weights, means and scales, behind a random rotation, around random centroids."""
    product = build_quantizer(dim, **config)
    for number, (part, dims) in enumerate(zip(product.parts, product.part_slices, strict=True)):
        own = random_quantizer(part.dim, seed=10 * seed + number, **part.config, num_lists=product.num_lists)
        part.load_state_dict(own.parts[0].state_dict())
        product.data_mean[dims] = own.data_mean
        product.data_std[dims] = 1.5 + number
    if product.rotation is not None:
        product.rotation.copy_(random_rotation(dim, seed))
    if product.num_lists is not None:
        product.set_centroids(3 * torch.randn((product.num_lists, dim), generator=torch.Generator().manual_seed(seed)))
    return product


def vectors(rows: int = 200, dim: int = DIM) -> torch.Tensor:
    return 4 * torch.randn((rows, dim), generator=torch.Generator().manual_seed(5))


def parted(codec: Codec, x: torch.Tensor) -> tuple[list[Codec], list[torch.Tensor]]:
    """Codecs of the parts, and what each of them sees of raw vectors."""
    product = codec.quantizer
    y = x if product.rotation is None else x @ product.rotation.T
    widths = [part.dim for part in product.parts]
    codecs = [Codec(alone(product, number), precision="float32") for number in range(len(widths))]
    return codecs, list(torch.split(y, widths, dim=1))


def joined(codec: Codec, parts: list[torch.Tensor]) -> torch.Tensor:
    """Raw vectors of what the parts see of them."""
    y = torch.cat(parts, dim=1)
    return y if codec.quantizer.rotation is None else y @ codec.quantizer.rotation


def encoded(codec: Codec, x: torch.Tensor, **options: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Codes, and the list ids of an IVF codec as an argument."""
    found = codec.encode(x, **options)
    return (found, {}) if codec.num_lists is None else (found[1], {"list_ids": found[0]})
