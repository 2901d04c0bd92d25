"""The start of a training: rotation, normalisation, networks and codebooks, from the training vectors."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor, nn

from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.progress import Progress
from qinco_lit.quantizers import QINCo, Quantizer
from qinco_lit.quantizers.kmeans import residual_kmeans
from qinco_lit.quantizers.network import CodewordNetwork
from qinco_lit.training.recipe import Recipe

log = logging.getLogger(__name__)

# an untrained quantizer, the training vectors (n, dim) to slice, and where the codebooks are made
Start = Callable[[Quantizer, Any, torch.device], None]

_ROWS_PER_SUM = 8_192  # as float64
_ZERO = torch.zeros((), dtype=torch.float64)


@torch.no_grad()
def initialize(
    quantizer: Quantizer,
    rows: Any,
    device: torch.device,
    *,
    recipe: Recipe,
    seed: int,
    lists: FrozenLists | None = None,
    show_progress: bool = True,
) -> None:
    """Give an untrained quantizer everything that a training starts from; it is on the CPU before and after.

    Args:
        quantizer: each of its parts starts as it would alone, with seed + part.
        rows: the training vectors, (n, dim), to slice.
        device: where the codebooks are made.
        recipe: says how.
        seed: of what is drawn.
        lists: of an IVF model; None: it has none, or its centroids already.
        show_progress: of rotation, lists and k-means.

    Raises:
        ValueError: NaN or infinity, or vectors that are all the same, in a part or as a whole.
    """
    with Progress("iterations", show=show_progress) as progress:
        _initialize(quantizer, rows, device, recipe, seed, lists, progress)


def _initialize(
    quantizer: Quantizer,
    rows: Any,
    device: torch.device,
    recipe: Recipe,
    seed: int,
    lists: FrozenLists | None,
    progress: Progress,
) -> None:
    first = check_rows(torch.from_numpy(rows[: recipe.normalization_rows]).float())
    if quantizer.rotation is not None:
        progress.start("OPQ", None)
        part_dims, some = [part.dim for part in quantizer.parts], torch.from_numpy(rows[: recipe.kmeans_rows])
        quantizer.rotation.copy_(train_rotation(some, part_dims, seed=seed, lists=lists))
    generators = [torch.Generator().manual_seed(seed + number) for number in range(len(quantizer.parts))]
    set_normalization(quantizer, quantizer.rotated(first), recipe.normalization)
    for part, generator in zip(quantizer.parts, generators, strict=True):
        init_networks(part, recipe.network_init, generator)
    if lists is not None:  # which are normalised as the vectors are
        lists.place(quantizer)
    quantizer.to(device)
    batch = torch.from_numpy(rows[: recipe.kmeans_rows]).to(device)
    x = quantizer.normalize(batch)
    if quantizer.num_lists is not None:
        progress.start("lists of the training vectors", None)
    starts = quantizer.starts(lists_of(quantizer, batch, x, lists))
    for part, rows_of_part, start, generator in zip(
        quantizer.parts, quantizer.sliced(x), starts, generators, strict=True
    ):
        targets = rows_of_part.contiguous()
        if start is not None:
            targets -= start
        set_codebooks(
            part,
            _initial_codebooks(part, targets, generator, recipe, progress),
            noise=recipe.codebook_noise,
            exact=recipe.network_init == "exact",
            generator=generator,
        )
    quantizer.cpu()  # Lightning moves the module to its device itself


def lists_of(
    quantizer: Quantizer, batch: Shaped[Tensor, "batch dim"], x: Float[Tensor, "batch dim"], lists: FrozenLists | None
) -> Tensor | None:
    """List ids (batch,) of raw vectors, of which x is the normalised form; None for a model without lists."""
    if quantizer.num_lists is None:
        return None
    if lists is None or lists.assign is None:
        return quantizer.assign_lists(x)
    return lists.assign(batch).to(x.device)


def train_rotation(
    rows: Shaped[Tensor, "rows dim"], part_dims: list[int], *, seed: int, lists: FrozenLists | None = None
) -> Float[Tensor, "dim dim"]:
    """OPQ of raw training vectors, or of what the centroids of their lists leave of them."""
    from qinco_lit.training.faiss_start import opq_rotation, some_rows

    chosen = some_rows(len(rows), seed)
    x = check_rows(rows[chosen].float(), chosen)
    log.info("OPQ: a rotation for parts of %s dimensions, on %d vectors", ", ".join(map(str, part_dims)), len(x))
    if lists is not None:
        x = lists.residuals(x)
    return torch.from_numpy(opq_rotation(x.numpy(), part_dims, seed=seed))


def _initial_codebooks(
    part: QINCo, x: Float[Tensor, "rows dim"], generator: torch.Generator, recipe: Recipe, progress: Progress
) -> Iterable[Float[Tensor, "codebook dim"]]:
    """One codebook per step, of what the steps have to code: `x` is in normalised space and on the device."""
    if recipe.initial_codebooks == "faiss_rq":
        from qinco_lit.training.faiss_start import residual_codebooks

        progress.start("codebooks by faiss", None)
        seed = int(torch.randint(1 << 31, (), generator=generator))
        codebooks = residual_codebooks(x.cpu().numpy(), part.num_steps, part.codebook_size, seed=seed)
        return torch.from_numpy(codebooks).to(x.device)
    return kmeans_codebooks(
        part,
        x,
        generator,
        iterations=recipe.kmeans_iterations,
        split_empty=recipe.kmeans_split_empty,
        progress=progress,
    )


def kmeans_codebooks(
    quantizer: QINCo,
    x: Float[Tensor, "rows dim"],
    generator: torch.Generator,
    *,
    iterations: int,
    split_empty: bool,
    progress: Progress,
) -> Iterable[Float[Tensor, "codebook dim"]]:
    """Greedy residual k-means, one codebook per step, of what the steps have to code: `x` is in normalised space."""
    log.info("residual k-means: %d codebooks on %d vectors", quantizer.num_steps, len(x))
    sizes = (quantizer.num_steps, quantizer.codebook_size)
    progress.start("residual k-means", quantizer.num_steps * iterations)
    return residual_kmeans(
        x, *sizes, iterations=iterations, split_empty=split_empty, generator=generator, advance=progress.advance
    )


def check_rows(
    x: Float[Tensor, "rows dim"], numbers: Int64[np.ndarray, " rows"] | None = None
) -> Float[Tensor, "rows dim"]:
    """The training vectors themselves; raises ValueError where one holds NaN or infinity.

    `numbers` are those of the vectors in their file; None: from 0 on.
    """
    finite = torch.isfinite(x).all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        row = row if numbers is None else int(numbers[row])
        raise ValueError(f"training vector {row} holds NaN or infinity: clean the file first")
    return x


def set_normalization(quantizer: Quantizer, y: Float[Tensor, "rows dim"], kind: str) -> None:
    """Fill data_mean and data_std from rotated training vectors, for each part from its dimensions.

    `centred`: mean per dimension and one standard deviation (ddof 0) of what they leave, so that a constant added to a
    dimension changes nothing. `standard` (QINCo2): the same mean, and the standard deviation over all entries as they
    are. `minmax` (QINCo1): the range of all entries goes to [-1, 1]; the shift is one scalar. `none`: mean 0, std 1.
    All are computed in float64.

    Raises:
        ValueError: NaN or infinity, or vectors that are all the same, as a whole or in a part.
    """
    check_rows(y)
    if all_the_same(y):
        raise ValueError(f"the first {len(y)} training vectors are all the same: there is nothing to quantize")
    for number, dims in enumerate(quantizer.part_slices):
        if all_the_same(y[:, dims]):
            raise ValueError(
                f"dimensions {dims.start} to {dims.stop - 1} (part {number}) are the same in all of the first "
                f"{len(y)} training vectors: give other model.part_dims, or opq=true"
            )
        mean, std = _normalization(y[:, dims], kind)
        quantizer.data_mean[dims] = mean.float()
        quantizer.data_std[dims] = std.float()


def _normalization(x: Float[Tensor, "rows dim"], kind: str) -> tuple[Float64[Tensor, " dim"], Float[Tensor, ""]]:
    mean = _mean_of(x)
    if kind == "none":
        mean, std = torch.zeros_like(mean), torch.ones(())
    elif kind in ("centred", "standard"):
        around = mean if kind == "centred" else mean.mean()
        std = _mean_of(x, around).mean().sqrt()
    else:
        low, high = x.min().double(), x.max().double()
        mean, std = ((high + low) / 2).expand_as(mean), (high - low) / 2
    return mean, std


def _mean_of(x: Float[Tensor, "rows dim"], around: Float64[Tensor, "..."] | None = None) -> Float64[Tensor, " dim"]:
    """Mean of each dimension, or of its squared differences from `around`, in float64; some rows at a time."""
    blocks = (block.double() for block in torch.split(x, _ROWS_PER_SUM))
    return sum(((each if around is None else (each - around).square()).sum(0) for each in blocks), _ZERO) / len(x)


def all_the_same(x: Float[Tensor, "rows dim"]) -> bool:
    """Whether no vector differs from another."""
    return bool((x == x[0]).all())


@torch.no_grad()
def init_networks(quantizer: QINCo, kind: str, generator: torch.Generator) -> None:
    """Draw the networks' weights.

    `paper` (QINCo2): W, b and D zero; U, P_in, P_out Kaiming-uniform (relu). `linear` (QINCo1): PyTorch's default for
    linear layers. `exact`: as `paper`, with P_out zero, so that f_m(c, x_hat) = c before the first step (without
    projections f_m returns 2c with the outer skip: `set_codebooks` halves those codebooks instead).
    """
    for step in quantizer.residual_steps():
        network = step.network
        linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
        for linear in linears:
            gain = 2**0.5 if kind != "linear" else 3**-0.5  # default Linear: kaiming_uniform with a = sqrt(5)
            bound = gain * (3 / linear.in_features) ** 0.5
            linear.weight.uniform_(-bound, bound, generator=generator)
            if linear.bias is not None:
                linear.bias.uniform_(-(linear.in_features**-0.5), linear.in_features**-0.5, generator=generator)
        if kind != "linear":
            # of a low-rank W one factor is zero; the other gets the gradient that moves it
            first = network.concat if network.concat is not None else network.concat_out
            zero: list[Tensor] = [*first.parameters(), *network.down.parameters()] if first is not None else []
            if kind == "exact" and network.out_proj is not None and network.outer_skip:
                zero.append(network.out_proj.weight)
            for weight in zero:
                weight.zero_()


@torch.no_grad()
def set_codebooks(
    quantizer: QINCo,
    codebooks: Iterable[Float[Tensor, "codebook dim"]],
    *,
    noise: float,
    exact: bool,
    generator: torch.Generator,
) -> None:
    """Give the steps their initial codebooks, in normalised space; pre-selectors start as copies.

    Each gets Gaussian noise of `noise` x its own standard deviation. With `exact`, a step whose untrained network
    returns 2c (outer skip, no projections) holds its codebook at half size.
    """

    def noisy(codebook: Tensor) -> Tensor:
        draw = torch.randn(codebook.shape, generator=generator).to(codebook.device)
        return codebook + noise * codebook.std() * draw

    for index, codebook in enumerate(codebooks):
        step = quantizer.network_step(index)
        if step is None:
            assert quantizer.first_codebook is not None
            quantizer.first_codebook.copy_(noisy(codebook))
            continue
        step.codebook.copy_(noisy(codebook) * (0.5 if exact and _doubles(step.network) else 1.0))
        if step.preselector is not None:
            step.preselector.copy_(noisy(codebook))


def _doubles(network: CodewordNetwork) -> bool:
    return network.outer_skip and network.out_proj is None
