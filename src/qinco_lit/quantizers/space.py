"""The space that vectors are coded in: rotated, normalised, and around the centroids of lists."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from qinco_lit.quantizers.kmeans import Kept, half_squared_norms, nearest_codeword


class CodedSpace(nn.Module):
    """Raw vectors to y = R x to (y - mean) / std, whose dimensions are those of parts, and back; and lists in it.

    Args:
        part_dims: dimensions of each part.
        opq: whether there is a rotation R.
        num_lists: of a frozen coarse codebook (IVF); None for none.

    Attributes:
        part_slices: the dimensions of each part.
    """

    rotation: Tensor | None
    data_mean: Tensor  # of y
    data_std: Tensor  # of y, the same for all dimensions of a part
    coarse_centroids: Tensor | None  # normalised

    def __init__(self, part_dims: Sequence[int], *, opq: bool, num_lists: int | None) -> None:
        super().__init__()
        self.dim, self.num_lists = sum(part_dims), num_lists
        if num_lists is not None and num_lists < 1:
            raise ValueError(f"num_lists={num_lists} must be at least 1")
        self.part_slices = [
            slice(end - width, end) for width, end in zip(part_dims, accumulate(part_dims), strict=True)
        ]
        self.register_buffer("rotation", torch.eye(self.dim) if opq else None)
        self.register_buffer("data_mean", torch.zeros(self.dim))
        self.register_buffer("data_std", torch.ones(self.dim))
        self.register_buffer("coarse_centroids", None if num_lists is None else torch.zeros(num_lists, self.dim))
        self._comparable = Kept(_comparable)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.data_mean.device

    def rotated(self, x: Shaped[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """R x of every row, float32, from any real dtype; x itself without a rotation."""
        if self.rotation is None:
            return x.float()
        with torch.autocast(x.device.type, enabled=False):
            return x.float() @ self.rotation.T

    def normalize(self, x: Shaped[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """(R x - mean) / std in float32, from any real dtype."""
        return (self.rotated(x) - self.data_mean) / self.data_std

    def denormalize(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Back to raw space."""
        y = x * self.data_std + self.data_mean
        if self.rotation is None:
            return y
        with torch.autocast(x.device.type, enabled=False):
            return y @ self.rotation

    def raw_squared_error(self, x_hat: Float[Tensor, "batch dim"], x: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
        """Sum over rows and dimensions, in raw space, float64, of the error between normalised vectors."""
        pairs = zip(self.sliced(x_hat), self.sliced(x), strict=True)
        errors = [(own - target).square().sum().double() for own, target in pairs]
        return torch.stack([error * scale for error, scale in zip(errors, self.squared_scales(), strict=True)]).sum()

    def squared_scales(self) -> list[Float[Tensor, ""]]:
        """Of each part: what turns a squared error of normalised dimensions into one of raw space, in float64."""
        return [self.data_std[dims.start].double() ** 2 for dims in self.part_slices]

    @torch.no_grad()
    def set_centroids(self, centroids: Float[Tensor, "lists dim"]) -> None:
        """Take the coarse centroids, in raw space; rotation and normalisation must be known."""
        assert self.coarse_centroids is not None
        self.coarse_centroids.copy_(self.normalize(centroids))

    def raw_centroids(self) -> Float[Tensor, "lists dim"] | None:
        """The coarse centroids in raw space, a copy; None for a plain model."""
        return None if self.coarse_centroids is None else self.denormalize(self.coarse_centroids)

    @torch.no_grad()
    def assign_lists(self, x: Float[Tensor, "batch dim"]) -> Int[Tensor, " batch"]:
        """List of each normalised vector (int64), by brute force: that of the nearest centroid in raw space."""
        assert self.coarse_centroids is not None
        # where parts have their own scales, distances in normalised space would weigh them otherwise
        scales = () if len(self.part_slices) == 1 else (self.data_std,)
        with torch.autocast(x.device.type, enabled=False):
            for scale in scales:
                x = x * scale
            return nearest_codeword(x, *self._comparable(self.coarse_centroids, *scales))

    def centroids_of(self, list_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """The normalised centroids of lists."""
        assert self.coarse_centroids is not None
        return F.embedding(list_ids, self.coarse_centroids)

    def starts(self, list_ids: Int[Tensor, " batch"] | None) -> list[Float[Tensor, "batch _"] | None]:
        """What each part codes vectors of these lists from: its dimensions of their centroids; None without lists."""
        if self.num_lists is None:
            return [None] * len(self.part_slices)
        assert list_ids is not None
        return [part.contiguous() for part in self.sliced(self.centroids_of(list_ids))]

    def sliced(self, x: Float[Tensor, "batch dim"]) -> Iterator[Float[Tensor, "batch _"]]:
        """The dimensions of each part, of rotated or normalised vectors."""
        return (x[:, dims] for dims in self.part_slices)


def _comparable(
    centroids: Float[Tensor, "lists dim"], *scales: Float[Tensor, " dim"]
) -> tuple[Float[Tensor, "lists dim"], Float[Tensor, " lists"]]:
    """Centroids whose squared L2 rank as in raw space, and half their squared norms."""
    for scale in scales:
        centroids = centroids * scale
    return centroids, half_squared_norms(centroids)
