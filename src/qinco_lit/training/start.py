"""The start of a training: rotation, normalisation, networks and codebooks, from the training vectors."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from qinco_lit.quantizers import QINCo, Quantizer
from qinco_lit.training.initialization import check_rows, init_networks, set_codebooks, set_normalization
from qinco_lit.training.recipe import Recipe

# what the steps have to code (training rows, less their centroids), in normalised space and on the device, to one
# codebook per step
InitialCodebooks = Callable[[QINCo, Tensor, torch.Generator], Iterable[Tensor]]
# raw training rows (rows, dim), float32, to the rotation (dim, dim) of a product quantizer
TrainRotation = Callable[[Tensor], Tensor]


@torch.no_grad()
def initialize(
    quantizer: Quantizer,
    rows: Any,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    initial_codebooks: InitialCodebooks,
    train_rotation: TrainRotation | None,
    place_centroids: Callable[[], None],
    lists: Callable[[Tensor, Tensor], Tensor | None],
) -> None:
    """Give an untrained quantizer everything that a training starts from; it is on the CPU before and after.

    Args:
        quantizer: each of its parts starts as it would alone, with seed + part.
        rows: the training vectors, (n, dim), to slice.
        recipe: says how.
        seed: of what is drawn.
        device: where the codebooks are made.
        initial_codebooks: gives them.
        train_rotation: gives the rotation of a product quantizer that has one.
        place_centroids: gives an IVF model its centroids; called when its normalisation is known.
        lists: of raw and normalised vectors; None for a model without lists.

    Raises:
        ValueError: NaN or infinity, or vectors that are all the same, in a part or as a whole.
    """
    first = check_rows(torch.from_numpy(rows[: recipe.normalization_rows]).float())
    if quantizer.rotation is not None:
        assert train_rotation is not None
        quantizer.rotation.copy_(train_rotation(torch.from_numpy(rows[: recipe.kmeans_rows])))
    generators = [torch.Generator().manual_seed(seed + number) for number in range(len(quantizer.parts))]
    set_normalization(quantizer, quantizer.rotated(first), recipe.normalization)
    for part, generator in zip(quantizer.parts, generators, strict=True):
        init_networks(part, recipe.network_init, generator)
    place_centroids()
    quantizer.to(device)
    batch = torch.from_numpy(rows[: recipe.kmeans_rows]).to(device)
    x = quantizer.normalize(batch)
    starts = quantizer.starts(lists(batch, x))
    for part, rows_of_part, start, generator in zip(
        quantizer.parts, quantizer.sliced(x), starts, generators, strict=True
    ):
        targets = rows_of_part.contiguous()
        if start is not None:
            targets -= start
        set_codebooks(
            part,
            initial_codebooks(part, targets, generator),
            noise=recipe.codebook_noise,
            exact=recipe.network_init == "exact",
            generator=generator,
        )
    quantizer.cpu()  # Lightning moves the module to its device itself
