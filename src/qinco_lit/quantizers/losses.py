"""Training losses of chosen codes and their gradients on a CPU: rows side by side, one core each.

What autograd would do operation by operation, each shared among all cores, is written out here for a residual step, so
that a range of rows goes through all steps, and back, on one core. A weight's gradient is then one product over all
rows of the batch, and weights are shared among the cores. So nothing depends on the number of cores, and no gradients
of parts of a batch are added up.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qinco_lit.quantizers.chunks import TRAINED_ROWS, chunks
from qinco_lit.quantizers.workers import for_each, results_of


class StepTensors(NamedTuple):
    """What a residual step decodes with, and its pre-selector; gradients flow to all of it.

    Attributes:
        stream: the codewords' part of the residual stream.
        context, up, down, out_proj: as in `Weights`.
        codewords: for the outer skip of QINCo2; None without it.
        preselector: S_m; None without it.
    """

    stream: Float[Tensor, "codebook embed"]
    context: Float[Tensor, "embed dim"]
    up: tuple[Float[Tensor, "hidden embed"], ...]
    down: tuple[Float[Tensor, "embed hidden"], ...]
    out_proj: Float[Tensor, "dim embed"] | None
    codewords: Float[Tensor, "codebook dim"] | None
    preselector: Float[Tensor, "codebook dim"] | None

    def flat(self) -> list[Tensor | None]:
        """One after the other, as `of` takes them."""
        return [self.stream, self.context, self.out_proj, self.codewords, self.preselector, *self.up, *self.down]

    @classmethod
    def of(cls, flat: tuple[Tensor | None, ...]) -> "StepTensors":
        """The step of which `flat` are the tensors."""
        stream, context, out_proj, codewords, preselector, *blocks = flat
        half = len(blocks) // 2
        up, down = tuple(blocks[:half]), tuple(blocks[half:])
        return cls(stream, context, up, down, out_proj, codewords, preselector)  # type: ignore[arg-type]


def losses(
    x: Float[Tensor, "batch dim"],
    codes: Int[Tensor, "batch num_steps"],
    start: Float[Tensor, "batch dim"] | None,
    first_codebook: Float[Tensor, "codebook dim"] | None,
    steps: list[StepTensors],
) -> tuple[Float[Tensor, " num_steps"], Float[Tensor, " preselectors"]]:
    """`QINCo.losses`, to which gradients flow once: from a start, or of a plain first codebook."""
    flat = [tensor for step in steps for tensor in step.flat()]
    found: tuple[Tensor, Tensor] = _Losses.apply(x, codes, start, len(steps), first_codebook, *flat)  # type: ignore[no-untyped-call]
    return found


class _Pass:
    """One batch through all steps and back; rows are ranges of it.

    Tensors of the whole batch: `x_hat` and `error`, which is x_hat - x (before the first network, and after every one),
    `stream` (before the blocks and after each), `hidden` (after the ReLU), and the gradients by `stream`,
    `hidden` (before the ReLU) and what the step has added.
    """

    def __init__(
        self, x: Tensor, codes: Tensor, start: Tensor | None, first: Tensor | None, steps: list[StepTensors]
    ) -> None:
        self.x, self.start, self.first, self.steps = x, start, first, steps
        columns = codes.T.contiguous()
        self.first_codes, self.codes = columns[0], columns if first is None else columns[1:]
        self.x_hat, self.error = ([torch.empty_like(x) for _ in range(len(steps) + 1)] for _ in range(2))
        self.stream = [[x.new_empty(len(x), len(step.context)) for _ in range(len(step.up) + 1)] for step in steps]
        self.hidden = [[x.new_empty(len(x), len(up)) for up in step.up] for step in steps]
        self.by_added: list[Tensor] = []
        self.by_stream: list[list[Tensor]] = []
        self.by_hidden: list[list[Tensor]] = []

    def forward(self) -> tuple[Float[Tensor, " num_steps"], Float[Tensor, " preselectors"]]:
        """The losses."""
        ranges = list(chunks(len(self.x), TRAINED_ROWS))
        squares = self.x.new_zeros(len(ranges), len(self.steps) + 1)
        preselected = self.x.new_zeros(len(ranges), len(self.steps))

        def work(begin: int, end: int) -> None:
            number, rows = begin // TRAINED_ROWS, slice(begin, end)
            x_hat = self.x_hat[0][rows]
            if self.start is not None:
                x_hat.copy_(self.start[rows])
            else:
                assert self.first is not None
                torch.index_select(self.first, 0, self.first_codes[rows], out=x_hat)
            for index, step in enumerate(self.steps):
                error = torch.sub(x_hat, self.x[rows], out=self.error[index][rows])
                squares[number, index] = error.square().sum()
                codes = self.codes[index, rows]
                if step.preselector is not None:
                    left = step.preselector.index_select(0, codes).add_(error)
                    preselected[number, index] = left.square_().sum()
                x_hat = torch.add(x_hat, self._added(index, rows, codes), out=self.x_hat[index + 1][rows])
            error = torch.sub(x_hat, self.x[rows], out=self.error[-1][rows])
            squares[number, -1] = error.square().sum()

        for_each(work, ranges, self.x.device)
        reconstruction = squares.sum(0) / self.x.numel()
        selects = bool(self.steps) and self.steps[0].preselector is not None
        return (
            reconstruction if self.start is None else reconstruction[1:],
            preselected.sum(0) / self.x.numel() if selects else preselected.new_zeros(0),
        )

    def _added(self, index: int, rows: slice, codes: Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        """f: as `ResidualStep.extend` has it."""
        step, streams, hiddens = self.steps[index], self.stream[index], self.hidden[index]
        stream = streams[0][rows]
        torch.index_select(step.stream, 0, codes, out=stream).addmm_(self.x_hat[index][rows], step.context.T)
        for up, down, hidden, after in zip(step.up, step.down, hiddens, streams[1:], strict=True):
            active = torch.mm(stream, up.T, out=hidden[rows]).relu_()
            stream = torch.addmm(stream, active, down.T, out=after[rows])
        added = stream if step.out_proj is None else stream @ step.out_proj.T
        return added if step.codewords is None else added + step.codewords.index_select(0, codes)

    def backward(self, by_reconstruction: Tensor, by_preselector: Tensor) -> list[Tensor | None]:
        """Gradients of the first codebook and of every step's tensors, in the order of `StepTensors.flat`.

        Args:
            by_reconstruction, by_preselector: gradients by the losses.
        """
        x, steps = self.x, self.steps
        scale = 2.0 / x.numel()
        # of the first codebook's error there is none, where the model has a start
        of_errors = [0.0] * (self.start is not None) + (scale * by_reconstruction).tolist()
        by_first = torch.empty_like(x)
        self.by_added = [torch.empty_like(x) for _ in steps]
        self.by_stream = [
            [torch.empty_like(stream) for stream in (streams[:-1] if step.out_proj is None else streams)]
            for step, streams in zip(steps, self.stream, strict=True)
        ]
        self.by_hidden = [[torch.empty_like(hidden) for hidden in hiddens] for hiddens in self.hidden]

        def work(begin: int, end: int) -> None:
            rows = slice(begin, end)
            total = self.by_added[-1][rows] if steps else by_first[rows]
            torch.mul(self.error[-1][rows], of_errors[-1], out=total)
            for index in reversed(range(len(steps))):
                before = by_first[rows] if index == 0 else self.by_added[index - 1][rows]
                if index > 0 or self.first is not None:
                    stream = self._back_through_blocks(index, rows)
                    torch.addmm(total, stream, steps[index].context, out=before)
                    total = before.add_(self.error[index][rows], alpha=of_errors[index])
                else:
                    self._back_through_blocks(index, rows)

        for_each(work, chunks(len(x), TRAINED_ROWS), x.device)
        of_preselectors = (scale * by_preselector).tolist() or [0.0] * len(steps)
        wanted: list[Callable[[], Tensor | None]] = [partial(_sum_by_code, by_first, self.first_codes, self.first)]
        for index, of_preselector in enumerate(of_preselectors):
            wanted += self._gradients(index, of_preselector)
        return results_of(wanted, x.device)

    def _back_through_blocks(self, index: int, rows: slice) -> Float[Tensor, "rows embed"]:
        """Gradient by what the stream was before the blocks."""
        step, by_stream = self.steps[index], self.by_stream[index]
        after = self.by_added[index][rows]
        if step.out_proj is not None:
            after = torch.mm(after, step.out_proj, out=by_stream[-1][rows])
        for block in reversed(range(len(step.up))):
            by_hidden = torch.mm(after, step.down[block], out=self.by_hidden[index][block][rows])
            active = self.hidden[index][block][rows]
            torch.ops.aten.threshold_backward.grad_input(by_hidden, active, 0, grad_input=by_hidden)
            after = torch.addmm(after, by_hidden, step.up[block], out=by_stream[block][rows])
        return after

    def _gradients(self, index: int, of_preselector: float) -> list[Callable[[], Tensor | None]]:
        """What computes the gradient of each tensor of a step."""
        step, codes, by_added = self.steps[index], self.codes[index], self.by_added[index]
        stream, hidden, by_hidden = self.stream[index], self.hidden[index], self.by_hidden[index]
        by_stream = self.by_stream[index] if step.out_proj is not None else [*self.by_stream[index], by_added]

        def by_preselector() -> Tensor | None:
            if step.preselector is None:
                return None
            left = step.preselector.index_select(0, codes).add_(self.error[index]).mul_(of_preselector)
            return _sum_by_code(left, codes, step.preselector)

        return [
            partial(_sum_by_code, by_stream[0], codes, step.stream),
            partial(_product, by_stream[0], self.x_hat[index]),
            partial(_product, by_added, None if step.out_proj is None else stream[-1]),
            partial(_sum_by_code, by_added, codes, step.codewords),
            by_preselector,
            *(partial(_product, by, of) for by, of in zip(by_hidden, stream, strict=False)),
            *(partial(_product, by, of) for by, of in zip(by_stream[1:], hidden, strict=True)),
        ]


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, start: Tensor | None, num_steps: int, first: Tensor | None,
        *flat: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        each = len(flat) // num_steps if num_steps else 1
        steps = [StepTensors.of(flat[at : at + each]) for at in range(0, len(flat), each)]
        ctx.through = _Pass(x, codes, start, first, steps)
        losses: tuple[Tensor, Tensor] = ctx.through.forward()
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *by_losses: Tensor) -> tuple[Tensor | None, ...]:
        through, ctx.through = ctx.through, None  # what it holds is used up
        return (None, None, None, None, *through.backward(*by_losses))


def _product(
    by_output: Float[Tensor, "rows out"], of_input: Float[Tensor, "rows width"] | None
) -> Float[Tensor, "out width"] | None:
    """The gradient of a matrix; None where there is none."""
    return None if of_input is None else by_output.T @ of_input


def _sum_by_code(
    by_rows: Float[Tensor, "rows width"], codes: Int[Tensor, " rows"], like: Float[Tensor, "codebook width"] | None
) -> Float[Tensor, "codebook width"] | None:
    """The gradient of a codebook: the rows' sum for every code; None where there is none."""
    if like is None:
        return None
    summed: Tensor = torch.ops.aten.embedding_dense_backward(by_rows, codes, len(like), -1, False)
    return summed
