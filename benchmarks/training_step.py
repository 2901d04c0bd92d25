"""How long does a training step take, where does its time go, and what does a cheaper search cost in error?

    .venv/bin/python benchmarks/training_step.py [--codec RUN_DIR/codec] [--device cuda]
    .venv/bin/python benchmarks/training_step.py --quality --epochs 3

QINCo2-S on photo_sift, batch 512, in one run: each round trains some batches by the straightforward encoder, at its
best batch size, and decoder with autograd, and then by ours in every precision of the search; medians over the rounds.
Both have the same optimizer, and on a GPU the same bfloat16 autocast around the loss. Shares are of our step, profiled
apart from that; rebuilding tables is a part of the encoding. Budget searches are compared with the first of --breadths.

--quality trains by `qinco train` instead, the first of --breadths with the codes of float32, then the other searches:
wall time (initialisation and validation included), validation MSE by the search of the training, and database MSE by a
search that is the same for all.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import straightforward
import torch
from measuring import best_size, heading, line, machine, median_ratio, powers_of_two, rounds, seconds
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from subjects import Pair, add_options, device_of, name_of, pair, photo_sift, random_quantizer, trained
from torch import Tensor
from training_quality import BREADTHS, breadth_options, budget_options, quality

from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.quantizers import Quantizer, build_quantizer
from qinco_lit.quantizers.precision import PRECISIONS, precision_for
from qinco_lit.quantizers.workers import on_one_core
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.start import set_normalization
from qinco_lit.training.trainer import quiet_lightning

Result = TypeVar("Result")
BUDGETS = [(128, 32), (96, 48), (64, 32)]
CONF = Path(__file__).parents[1] / "conf" / "recipe"
PARTS = ("tables", "search", "decode", "backward", "optimizer", "data")


def tuned_recipe() -> Recipe:
    """Our default recipe."""
    merged = OmegaConf.merge(OmegaConf.load(CONF / "paper.yaml"), OmegaConf.load(CONF / "tuned.yaml"))
    values = {str(name): value for name, value in merged.items() if name != "defaults"}
    return Recipe(**values)


def with_search(template: Quantizer, search: dict[str, Any]) -> Quantizer:
    """A copy of the model that searches in another way."""
    config = {**template.config, "candidate_budget": None, **search}
    copy = build_quantizer(template.dim, **config)
    copy.load_state_dict(template.state_dict())
    return copy.to(template.data_mean.device)


def batches(data: VectorDataModule, device: torch.device) -> Iterator[Tensor]:
    while True:
        for batch in data.train_dataloader():
            yield batch.to(device)


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """As `qinco train` has it."""
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    return context


class Ours:
    """The project's LightningModule with its optimizer, driven batch by batch."""

    def __init__(self, quantizer: Quantizer, recipe: Recipe, source: Iterator[Tensor]) -> None:
        self.device, self.source = quantizer.data_mean.device, source
        recipe = replace(recipe, narrow_share=0)  # a share of a whole training; here a search is compared with itself
        self.module = QuantizerTraining(quantizer, recipe, start=lambda *_: None, seed=0).to(self.device)
        self.module.trainer = Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self.module.setup("validate")  # moves its statistics to the device; the model is initialised already
        self.optimizer = self.module.configure_optimizers()

    def step(self) -> None:
        """One batch."""
        on_one_core(self._step, self.device)

    def _step(self) -> None:
        batch = next(self.source)
        with autocast(self.device):
            loss = self.module.training_step(batch, 0)
        torch.autograd.backward(loss)
        self.update()

    def update(self) -> None:
        """Clip the gradients and use them."""
        self.module.configure_gradient_clipping(self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def shares(self, steps: int) -> dict[str, float]:
        """What part of a step takes what share of its time."""
        return on_one_core(partial(self._shares, steps), self.device)

    def _shares(self, steps: int) -> dict[str, float]:
        spent = dict.fromkeys(PARTS, 0.0)

        def timed(part: str, run: Callable[..., Result]) -> Callable[..., Result]:
            def measured(*arguments: Any, **options: Any) -> Result:
                taken, result = seconds(partial(run, *arguments, **options), self.device)
                spent[part] += taken
                return result

            return measured

        quantizer = self.module.quantizer
        quantizer.tables = timed("tables", quantizer.tables)  # type: ignore[method-assign]
        quantizer.encode = timed("search", quantizer.encode)  # type: ignore[method-assign]
        training_step, source = timed("decode", self.module.training_step), timed("data", partial(next, self.source))
        for _ in range(steps):
            batch = source()
            with autocast(self.device):
                loss = training_step(batch, 0)
            timed("backward", torch.autograd.backward)(loss)
            timed("optimizer", self.update)()
        del quantizer.tables, quantizer.encode
        spent["decode"] -= spent["tables"] + spent["search"]
        return {part: taken / sum(spent.values()) for part, taken in spent.items()}


class Plain:
    """The straightforward search and loss with the same optimizer."""

    def __init__(self, quantizer: Quantizer, breadth: Pair, recipe: Recipe, source: Iterator[Tensor]) -> None:
        self.quantizer, self.breadth, self.recipe, self.source = quantizer, breadth, recipe, source
        self.device = quantizer.data_mean.device
        self.optimizer = torch.optim.AdamW(quantizer.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        x = quantizer.normalize(next(source))
        pairs = breadth[0] * breadth[1]
        sample = x if x.is_cuda else x[: max(4, min(len(x), 65_536 // pairs))]
        self.batch_size = best_size(
            partial(self._rate, sample), powers_of_two(max(1, 256 // pairs), min(len(sample), (1 << 20) // pairs))
        )

    def _encode(self, x: Tensor, batch_size: int) -> Tensor:
        codes: Tensor = straightforward.encode(
            self.quantizer, x, num_candidates=self.breadth[0], beam_size=self.breadth[1], batch_size=batch_size
        )
        return codes

    def _rate(self, x: Tensor, batch_size: int) -> float:
        self._encode(x[:batch_size], batch_size)
        return len(x) / min(seconds(partial(self._encode, x, batch_size), self.device)[0] for _ in range(2))

    def step(self) -> None:
        """One batch."""
        x = self.quantizer.normalize(next(self.source))
        codes = self._encode(x, self.batch_size)
        with autocast(self.device):
            loss = straightforward.loss(self.quantizer, x, codes)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_value_(self.quantizer.parameters(), self.recipe.clip_value or torch.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()


def template_model(options: argparse.Namespace, data: VectorDataModule) -> Quantizer:
    """The trained S, or a random one in the normalisation of the data."""
    own = trained(options, needed=False)
    if own is not None and (options.codec or name_of(own) == "S"):
        return own
    quantizer = random_quantizer("S", data.dim, 8, torch.Generator().manual_seed(0))
    set_normalization(quantizer, torch.from_numpy(data.train_vectors[:50_000]).float(), "standard")
    return quantizer.to(device_of(options))


def compare(template: Quantizer, breadth: Pair, budgets: list[Pair], options: argparse.Namespace, data: Any) -> None:
    """The lines of one straightforward search."""
    device = template.data_mean.device
    source, recipe = batches(data, device), tuned_recipe()
    searches = {f"A={breadth[0]}, B={breadth[1]}": breadth_options(breadth)}
    searches |= {f"T={budget[0]}, B={budget[1]}": budget_options(budget) for budget in budgets}
    precisions = dict.fromkeys(precision_for(name, device).name for name in options.precision or ("float32", "fast"))
    plain = Plain(with_search(template, breadth_options(breadth)), breadth, recipe, source)
    ours = {
        (label, precision): Ours(with_search(template, search), replace(recipe, search_precision=precision), source)
        for label, search in searches.items()
        for precision in precisions
    }

    def several(step: Callable[[], None]) -> None:
        for _ in range(options.batches):
            step()

    runs: dict[str, Callable[[], object]] = {"": partial(several, plain.step)}
    runs |= {", ".join(key): partial(several, trainer.step) for key, trainer in ours.items()}
    _, times = rounds(runs, options.repeats, device)
    plain_s = statistics.median(times[""]) / options.batches
    for (label, precision), trainer in ours.items():
        taken = times[f"{label}, {precision}"]
        step_s = statistics.median(taken) / options.batches
        share = trainer.shares(options.batches)
        encoding = share["tables"] + share["search"]
        print(
            line(
                label, precision, f"{1e3 * plain_s:,.0f} (A={breadth[0]}, B={breadth[1]}, batch {plain.batch_size})",
                f"{1e3 * step_s:,.1f}", f"{median_ratio(times[''], taken):.2f}", f"{1e5 / 512 * step_s:,.1f}",
                f"{encoding:.1%}", f"{share['tables']:.2%}", f"{share['decode'] + share['backward']:.1%}",
                f"{share['optimizer']:.1%}", f"{share['data']:.1%}",
            ),
            flush=True,
        )  # fmt: skip


def steps(options: argparse.Namespace) -> None:
    """Times and shares of training steps."""
    data = photo_sift(options.root)
    data.setup("fit")
    template = template_model(options, data)
    print(f"{machine(device_of(options))}\n")
    print(
        heading(
            "search", "precision", "straightforward, ms a step", "ours, ms a step", "ratio", "s per 100k vectors",
            "encode", "of it tables", "decode and backward", "optimizer", "data",
        )
    )  # fmt: skip
    for index, breadth in enumerate(options.breadths or BREADTHS):
        compare(template, breadth, options.budgets if index == 0 else [], options, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--breadths", nargs="+", type=pair, metavar="A,B", help="default 16,32 4,4; --quality: 16,32")
    parser.add_argument("--budgets", nargs="*", type=pair, default=BUDGETS, metavar="T,B")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help="default float32 fast; --quality: fast")
    parser.add_argument("--batches", type=int, default=2, help="in a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--quality", action="store_true", help="train instead: wall time and error")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit-train", type=int, default=100_000, help="vectors of an epoch")
    parser.add_argument("--quality-rows", type=int, default=2048, help="database vectors")
    parser.add_argument("--output", type=Path, default=Path("outputs/training_step"), help="where --quality's runs go")
    add_options(parser)
    options = parser.parse_args()
    quiet_lightning()
    (quality if options.quality else steps)(options)


if __name__ == "__main__":
    main()
