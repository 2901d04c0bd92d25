"""What a training knows of its codewords: how often each is chosen, and what those that are not are redrawn from."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from qinco_lit.quantizers import QINCo, Quantizer
from qinco_lit.training.dead_codewords import count_codes, redraw_dead, split_dead, target_statistics

_TARGET_MOMENTUM = 0.1  # of the running target statistics that dead codewords are redrawn from, as published


class CodewordStatistics:
    """Counts of codes, and mean and deviation of the steps' targets, over all ranks and equal on each.

    Plain tensors: as buffers of the model, DDP would overwrite them at every forward.

    Args:
        quantizer: whose codewords they are.
        dead_codewords: what becomes of those that are not chosen, as in `Recipe`.
        seed: of what is drawn.
        sum_over_ranks: sums a tensor.

    Attributes:
        usage_in_epoch: how often each codeword was chosen since the epoch began, (steps, codebook).
    """

    def __init__(
        self, quantizer: Quantizer, *, dead_codewords: str, seed: int, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> None:
        self._quantizer, self._dead_codewords, self._seed = quantizer, dead_codewords, seed
        self._sum = sum_over_ranks
        shape = (quantizer.num_steps, quantizer.codebook_size)
        self._usage_since_split = torch.zeros(shape, dtype=torch.int64)
        self.usage_in_epoch = torch.zeros(shape, dtype=torch.int64)
        self._target_mean = torch.zeros(quantizer.num_steps, quantizer.dim)
        self._target_std = torch.ones(quantizer.num_steps, quantizer.dim)

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors, by name."""
        return {
            "usage_since_split": self._usage_since_split,
            "usage_in_epoch": self.usage_in_epoch,
            "target_mean": self._target_mean,
            "target_std": self._target_std,
        }

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Take them back, on a device."""
        own = {name: value.to(device) for name, value in state.items()}
        self._usage_since_split, self.usage_in_epoch = own["usage_since_split"], own["usage_in_epoch"]
        self._target_mean, self._target_std = own["target_mean"], own["target_std"]

    def to(self, device: torch.device) -> None:
        """Move them."""
        self.load_state_dict(self.state_dict(), device)

    def counts(self, codes: Int[Tensor, "batch steps"]) -> Int[Tensor, "steps codebook"]:
        """Of a batch's codes on this rank."""
        return count_codes(codes, self._quantizer.codebook_size)

    @torch.no_grad()
    def add(
        self,
        x: Float[Tensor, "batch dim"],
        codes: Int[Tensor, "batch steps"],
        list_ids: Int[Tensor, " batch"] | None,
        *,
        world_size: int,
    ) -> None:
        """Those of a batch of normalised vectors."""
        usage = self._sum(self.counts(codes))
        self._usage_since_split += usage
        self.usage_in_epoch += usage
        if self._dead_codewords == "redraw":
            with torch.autocast(x.device.type, enabled=False):
                mean, std = self._targets(x, codes, list_ids)
            self._target_mean.lerp_(self._sum(mean) / world_size, _TARGET_MOMENTUM)
            self._target_std.lerp_(self._sum(std) / world_size, _TARGET_MOMENTUM)

    def _targets(
        self, x: Float[Tensor, "batch dim"], codes: Int[Tensor, "batch steps"], list_ids: Int[Tensor, " batch"] | None
    ) -> tuple[Float[Tensor, "steps dim"], Float[Tensor, "steps dim"]]:
        """Mean and std for every column of codes; dimensions that its part does not have keep what they had."""
        mean, std = self._target_mean.clone(), self._target_std.clone()
        own = zip(self._quantizer.part_codes(codes), self._quantizer.starts(list_ids), strict=True)
        for (part, dims, columns), (part_codes, start) in zip(self._parts(), own, strict=True):
            found = target_statistics(part, x[:, dims].contiguous(), part_codes, start)
            for column, own_mean, own_std in zip(columns, *found, strict=True):  # a list as an index waits for a GPU
                mean[column, dims], std[column, dims] = own_mean, own_std
        return mean, std

    def revive(self, optimizer: Optimizer, *, step: int, whole_epoch: bool) -> None:
        """Give the codewords that were not chosen work, as the recipe says; their count begins anew.

        Args:
            optimizer: whose moments go with copied codewords.
            step: optimizer steps done, which with the seed decides what is drawn.
            whole_epoch: whether an epoch has ended; else one is in progress.
        """
        for number, (part, dims, columns) in enumerate(self._parts()):
            # of 64 bits, for seeds up to the largest
            generator = torch.Generator().manual_seed(((self._seed + number) % (1 << 32) << 32) + step)
            if self._dead_codewords == "split":
                split_dead(part, self._usage_since_split[columns], optimizer, generator)
            elif self._dead_codewords == "redraw" and whole_epoch:
                mean, std = self._target_mean[columns, dims], self._target_std[columns, dims]
                redraw_dead(part, self.usage_in_epoch[columns], mean, std, generator)
        self._usage_since_split.zero_()

    def _parts(self) -> Iterator[tuple[QINCo, slice, list[int]]]:
        quantizer = self._quantizer
        return zip(quantizer.parts, quantizer.part_slices, quantizer.part_columns, strict=True)
