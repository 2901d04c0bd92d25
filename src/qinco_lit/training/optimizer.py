"""The optimizers of the recipes; ours is Muon for the networks' matrices and AdamW for everything else."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from qinco_lit.quantizers.network import CodewordNetwork
from qinco_lit.quantizers.workers import results_of
from qinco_lit.training.recipe import Recipe

_MOMENTUM = 0.9  # 0.95, as for language models, diverges at rates that are best with 0.9 (benchmarks/RESULTS.md)
_ITERATIONS = 3  # as good here as the usual 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024


def optimizer_of(module: nn.Module, recipe: Recipe, *, dim: int) -> Optimizer:
    """The recipe's, of all parameters of a module that codes vectors of `dim` dimensions, at its peak rate."""
    if recipe.optimizer == "adam":
        return Adam(module.parameters(), lr=recipe.lr)
    if recipe.optimizer == "adamw":
        return AdamW(module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    factor = recipe.factor_of_matrices(dim)
    return MuonAdamW(module, lr=recipe.lr, weight_decay=recipe.weight_decay, factor=factor)


class MuonAdamW(AdamW):
    """AdamW, but for matrices of networks, whose step is their momentum made orthogonal (Muon).

    A matrix' momentum G = U S V' is replaced by about U V', so that every direction is learned at the same pace (Jordan
    et al. 2024, "Muon: An optimizer for hidden layers in neural networks"); of taller matrices the step is larger by
    the root of rows / columns. Tables (codebooks, pre-selectors), whose rows get gradients one by one, and biases are
    AdamW's. Matrices are not decayed.

    Args:
        module: whose parameters are trained.
        lr: learning rate of AdamW.
        weight_decay: AdamW's.
        factor: the learning rate of the matrices, in multiples of `lr`; their group has it under this name.
    """

    def __init__(self, module: nn.Module, *, lr: float, weight_decay: float, factor: float) -> None:
        own = matrices(module)
        known = {id(matrix) for matrix in own}
        others = [parameter for parameter in module.parameters() if id(parameter) not in known]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": own, "lr": factor * lr, "factor": factor}]
        super().__init__([group for group in groups if group["params"]], lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        taken = [(group, matrix, matrix.grad) for group, matrix in self._matrices() if matrix.grad is not None]
        for _, matrix, _ in taken:
            matrix.grad = None  # AdamW passes over what has no gradient
        super().step()
        for _, matrix, gradient in taken:
            matrix.grad = gradient
        for shape in {matrix.shape for _, matrix, _ in taken}:
            alike = [(group["lr"], matrix) for group, matrix, _ in taken if matrix.shape == shape]
            directions = [self._direction(matrix) for _, matrix in alike]
            stretch = max(1.0, shape[0] / shape[1]) ** 0.5
            for (lr, matrix), direction in zip(alike, orthogonal(directions), strict=True):
                matrix.add_(direction, alpha=-lr * stretch)
        return loss

    def _matrices(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        return ((group, matrix) for group in self.param_groups if "factor" in group for matrix in group["params"])

    def _direction(self, matrix: Tensor) -> Tensor:
        """Nesterov's momentum of the gradient."""
        state = self.state[matrix]
        if not state:
            state["step"] = torch.zeros(())  # Adam looks for it where it takes a state back
            state["momentum"] = torch.zeros_like(matrix)
        assert matrix.grad is not None
        momentum: Tensor = state["momentum"].lerp_(matrix.grad, 1 - _MOMENTUM)
        return matrix.grad.lerp(momentum, _MOMENTUM)


def matrices(module: nn.Module) -> list[Tensor]:
    """Weights of linear layers of all codeword networks."""
    networks = (each for each in module.modules() if isinstance(each, CodewordNetwork))
    linears = (each for network in networks for each in network.modules() if isinstance(each, nn.Linear))
    return [each.weight for each in linears]


def orthogonal(alike: Sequence[Float[Tensor, "rows columns"]]) -> Sequence[Float[Tensor, "rows columns"]]:
    """About U V' of every matrix U S V', all of one shape, by Newton and Schulz' iteration: singular values near 1.

    Together on a GPU, and side by side on a CPU, a matrix a core.
    """
    device = alike[0].device
    if device.type != "cpu":
        return _orthogonal(torch.stack(list(alike)).bfloat16()).to(alike[0].dtype).unbind()
    return results_of([partial(_orthogonal, each) for each in alike], device)


def _orthogonal(x: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch rows columns"]:
    first, second, third = _COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # singular values at most 1
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = first * x + (second * square + third * square @ square) @ x
    return x.mT if tall else x
