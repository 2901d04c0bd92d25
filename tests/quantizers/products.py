"""Random products of quantizers, and the way from their vectors to their parts' and back."""

from typing import Any

import torch

from qinco_lit.codec import Codec
from qinco_lit.quantizers import ProductQINCo, build_quantizer
from tests.models import random_quantizer

DIM = 12


def random_rotation(dim: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn((dim, dim), generator=torch.Generator().manual_seed(seed))).Q


def random_product(dim: int = DIM, *, seed: int = 0, **config: Any) -> ProductQINCo:
    """Parts of random weights, means and scales, behind a random rotation, around random centroids."""
    product = build_quantizer(dim, **config)
    assert isinstance(product, ProductQINCo)
    for number, part in enumerate(product.parts):
        part.load_state_dict(random_quantizer(part.dim, seed=10 * seed + number, **part.config).state_dict())
        part.data_std.fill_(1.5 + number)
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
    assert isinstance(product, ProductQINCo)
    y = x if product.rotation is None else x @ product.rotation.T
    widths = [part.dim for part in product.parts]
    return [Codec(part, precision="float32") for part in product.parts], list(torch.split(y, widths, dim=1))


def joined(codec: Codec, parts: list[torch.Tensor]) -> torch.Tensor:
    """Raw vectors of what the parts see of them."""
    y = torch.cat(parts, dim=1)
    return y if codec.quantizer.rotation is None else y @ codec.quantizer.rotation  # type: ignore[union-attr]


def encoded(codec: Codec, x: torch.Tensor, **options: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Codes, and the list ids of an IVF codec as an argument."""
    found = codec.encode(x, **options)
    return (found, {}) if codec.num_lists is None else (found[1], {"list_ids": found[0]})
