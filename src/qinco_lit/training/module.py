"""The training of a quantizer as a LightningModule."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.precision import precision_for
from qinco_lit.quantizers.workers import on_one_core
from qinco_lit.training.codeword_statistics import CodewordStatistics
from qinco_lit.training.mixing import mixed, mixed_share_of
from qinco_lit.training.optimizer import optimizer_of
from qinco_lit.training.recipe import Recipe, cosine_factor
from qinco_lit.training.replay import Replay, Searched
from qinco_lit.training.start import Start, lists_of
from qinco_lit.training.validation import named_figures, squared_errors

_SEARCH = ("num_candidates", "beam_size", "candidate_budget")  # of a model: may change when it is resumed


class QuantizerTraining(LightningModule):
    """Trains a quantizer by a `Recipe`: encode without gradients, decode along the codes with them.

    Everything random is drawn from generators seeded by (seed, step), and the state of the codeword statistics is in
    the checkpoint, so a resumed run takes the same path as an uninterrupted one.

    The parts of a product quantizer are trained side by side on the same batches. They share nothing: gradients,
    clipping and AdamW are those of each number alone, so each becomes what it would alone, with seed + part.

    Args:
        quantizer: the model, not yet initialised.
        recipe: how it is trained.
        start: gives the model what it starts from, on the first rank.
        baselines: by name, starts that make it what it is to be validated as before.
        seed: of everything redrawn.
        lists: of an IVF model; None: the model has its centroids. These are neither sent nor saved: checkpoints keep a
            hash.
        num_rows: training vectors, if few of them are to be mixed.

    Attributes:
        baselines: as given.
        baseline: which of them the model is made at its next validation, before it starts; None: it is trained.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        recipe: Recipe,
        *,
        start: Start,
        baselines: Mapping[str, Start] | None = None,
        seed: int,
        lists: FrozenLists | None = None,
        num_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.recipe = recipe
        self.seed = seed
        self._start, self._lists = start, lists
        self.baselines = baselines or {}
        self.baseline: str | None = None
        self._coarse = [name for name in quantizer.state_dict() if name.endswith("coarse_centroids")]
        # DDP would send them at every forward
        self._ddp_params_and_buffers_to_ignore = [f"quantizer.{name}" for name in self._coarse]
        self.statistics = CodewordStatistics(
            quantizer, dead_codewords=recipe.dead_codewords, seed=seed, sum_over_ranks=self._sum
        )
        self._mixed_share = mixed_share_of(quantizer, num_rows, recipe.mix_below_rows)
        self.replay = Replay(recipe.replay_after)
        self._replay_of_all_ranks: list[list[dict[str, Any]]] = []
        self._train_error = torch.zeros(2, dtype=torch.float64)  # sum of squared errors and rows since the last report
        # figures of the last validation (raw space, sum over dimensions; bits)
        self.validation: dict[str, float] = {}
        self._validated_in_epoch = False
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self._validation = torch.zeros(0)
        self._validation_usage = torch.zeros(0)
        self._validation_tables: Any = None

    # -- start ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Initialise the model, or make it a baseline, on rank 0 from the training set; every rank gets the result."""
        device = self.trainer.strategy.root_device
        self.statistics.to(device)
        self._train_error = self._train_error.to(device)
        if self.trainer.ckpt_path is not None or (stage != "fit" and self.baseline is None):
            return
        if self.trainer.is_global_zero:
            rows = self.trainer.datamodule.train_vectors  # type: ignore[attr-defined]
            start = self._start if self.baseline is None else self.baselines[self.baseline]
            start(self.quantizer, rows, device)
        own = self.quantizer.state_dict()
        frozen = {name: own.pop(name) for name in self._coarse}
        self.quantizer.load_state_dict(self.trainer.strategy.broadcast(own) | frozen)
        if self._lists is not None:
            self._lists.place(self.quantizer)

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer; its learning rate is set at every batch, or by epochs without gain (`plateau`)."""
        recipe = self.recipe
        optimizer = optimizer_of(self, recipe, dim=max(part.dim for part in self.quantizer.parts))
        if recipe.schedule == "plateau":  # stepped here, not by Lightning, which does it after checkpoints are written
            self._plateau = ReduceLROnPlateau(optimizer, factor=0.1, patience=recipe.plateau_epochs)
            if self._plateau_state is not None:
                self._plateau.load_state_dict({**self._plateau_state, "patience": recipe.plateau_epochs})
        return optimizer

    @property
    def _steps_per_epoch(self) -> int:
        """Optimizer steps: a batch each, or `accumulate_grad_batches`; the last of an epoch may take fewer."""
        return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)

    @property
    def epochs_seen(self) -> float:
        """Epochs done, with the fraction of the current one, in optimizer steps."""
        return self.trainer.global_step / self._steps_per_epoch

    @property
    def num_steps_in_all(self) -> int:
        """Optimizer steps that the training takes if nothing ends it early."""
        steps = (self.trainer.max_epochs or 1) * self._steps_per_epoch
        return steps if self.trainer.max_steps < 0 else min(steps, self.trainer.max_steps)

    # -- training -------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Set the learning rate; give dead codewords work at the start of an epoch and, splitting, within the first."""
        recipe = self.recipe
        if recipe.schedule == "cosine":
            factor = cosine_factor(
                self.epochs_seen,
                warmup_epochs=recipe.warmup_epochs,
                max_epochs=self.num_steps_in_all / self._steps_per_epoch,
                reach=recipe.cosine_reach,
                floor=recipe.lr_floor,
            )
            for group in self._optimizer().param_groups:
                group["lr"] = recipe.lr * factor * group.get("factor", 1.0)
        early = self.current_epoch == 0 and recipe.split_every_batches > 0
        if (batch_idx == 0 and self.current_epoch > 0) or (
            early and batch_idx > 0 and batch_idx % recipe.split_every_batches == 0
        ):
            step, ended = self.trainer.global_step, batch_idx == 0
            self.statistics.revive(self._optimizer(), step=step, whole_epoch=ended)
        if batch_idx == 0:
            self.statistics.usage_in_epoch.zero_()

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """All of a step: forward, backward and update; on a CPU without sharing operations among cores."""
        on_one_core(partial(super().optimizer_step, *arguments, **options), self.device)

    def training_step(self, batch: Shaped[Tensor, "batch dim"], batch_idx: int) -> Tensor:
        """One batch of raw vectors: find codes, then the loss along them."""
        raw = mixed(batch, self._mixed_share, self.trainer.global_step)
        x = self.quantizer.normalize(raw)
        tables = self._tables(self.recipe.search_precision)
        list_ids = lists_of(self.quantizer, raw, x, self._lists)
        codes = self.quantizer.encode(x, self._search(), list_ids=list_ids, tables=tables)
        self.statistics.add(x, codes, list_ids, world_size=self.trainer.world_size)
        again = self.replay.exchange(Searched(raw, codes, list_ids))
        if again is not None:
            x = torch.cat([x, self.quantizer.normalize(again.batch)])
            codes = torch.cat([codes, again.codes])
            if list_ids is not None and again.list_ids is not None:
                list_ids = torch.cat([list_ids, again.list_ids])
        losses = self.quantizer(x, codes, list_ids)
        loss: Tensor = losses.reconstruction.sum() + losses.preselector.sum()
        rows = torch.ones((), device=x.device, dtype=torch.float64) * len(x)
        self._train_error += torch.stack([losses.mse * rows, rows])
        # reading the loss waits for a GPU: there it is checked at every report and checkpoint instead
        if self.device.type == "cpu" and not bool(torch.isfinite(loss)):
            raise ValueError(self._not_finite(batch, batch_idx))
        return loss

    def _search(self) -> Search:
        """What the next batch's codes are searched with."""
        search, share = self.quantizer.default_search, self.recipe.narrow_share
        narrow = share > 0 and self.trainer.global_step < share * self.num_steps_in_all
        return search.narrowed() if narrow and self.quantizer.config["preselector"] else search

    @torch.no_grad()
    def _tables(self, precision: str) -> Any:
        return self.quantizer.tables(precision_for(precision, self.device))

    def _not_finite(self, batch: Tensor, batch_idx: int) -> str:
        bad = (~torch.isfinite(batch.float()).all(1)).nonzero().flatten().tolist()
        where = f"epoch {self.current_epoch}, batch {batch_idx}"
        if bad:
            values = "the training vectors hold NaN or infinity"
            return (
                f"{values}: {len(bad)} of {len(batch)} vectors in {where}; clean the file, then resume or start again"
            )
        advice = f"lower recipe.lr (now {self.recipe.lr:g}) or set recipe.clip_value"
        return f"the loss became NaN or infinite in {where}: {advice}"

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip by value, as the recipe says, all but Muon's; pl.Trainer's own clipping options are not used."""
        if self.recipe.clip_value is not None:
            clipped = [each for group in optimizer.param_groups if "factor" not in group for each in group["params"]]
            nn.utils.clip_grad_value_(clipped, self.recipe.clip_value)

    def train_report(self) -> dict[str, float]:
        """MSE (raw space, sum over dimensions) of the training vectors since `forget_train_error`; learning rate."""
        self._check_error()
        squared, rows = self._train_error.tolist()
        return {"train/mse": squared / max(rows, 1.0), "lr": float(self._optimizer().param_groups[0]["lr"])}

    def forget_train_error(self) -> None:
        """Begin the sums of `train_report` anew."""
        self._train_error.zero_()

    def _check_error(self) -> None:
        if not bool(torch.isfinite(self._train_error).all()):
            raise ValueError(
                f"the loss became NaN or infinite before step {self.trainer.global_step}: look for NaN in the training "
                f"vectors, lower recipe.lr (now {self.recipe.lr:g}) or set recipe.clip_value"
            )

    def on_train_epoch_end(self) -> None:
        """Report how many codewords no training vector chose in this epoch; lower the rate of a plateau."""
        self._report({"train/dead_codewords": float((self.statistics.usage_in_epoch == 0).sum())})
        if self._plateau is not None and self._validated_in_epoch:
            self._plateau.step(self.validation["val/mse"])
        self._validated_in_epoch = False

    def _report(self, metrics: dict[str, float]) -> None:
        """To the loggers, under the number of optimizer steps done, and to callbacks as `trainer.callback_metrics`."""
        # with Lightning's own numbers, figures of one moment would differ by a step, and after a resume by another
        self.log_dict(metrics, logger=False)
        for logger in self.trainer.loggers:
            logger.log_metrics({**metrics, "epoch": self.current_epoch}, step=self.trainer.global_step)

    # -- validation -----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Clear the sums."""
        self._validation_tables = self._tables("auto")
        # errors of the centroids, where there are any, and after every code; rows
        number = (self.quantizer.num_lists is not None) + self.quantizer.num_steps + 1
        self._validation = torch.zeros(number, dtype=torch.float64, device=self.device)
        self._validation_usage = torch.zeros_like(self.statistics.usage_in_epoch)

    def validation_step(self, batch: Shaped[Tensor, "batch dim"], batch_idx: int) -> None:  # noqa: ARG002
        """Add a batch's squared errors, of its centroids and after every code, and its code counts."""
        with torch.autocast(self.device.type, enabled=False):  # what the codec has, which is float32
            x = self.quantizer.normalize(batch)
            list_ids = lists_of(self.quantizer, batch, x, self._lists)
            codes = self.quantizer.encode(x, list_ids=list_ids, tables=self._validation_tables)
            errors = squared_errors(self.quantizer, x, codes, list_ids)
        rows = torch.ones((), device=x.device, dtype=torch.float64) * len(x)
        self._validation += torch.cat([errors, rows[None]])
        self._validation_usage += self.statistics.counts(codes)

    def on_validation_epoch_end(self) -> None:
        """The figures of all ranks; reported, unless they are a baseline's."""
        sums, usage = self._sum(self._validation).cpu(), self._sum(self._validation_usage).cpu()
        mse = sums[:-1] / sums[-1]
        if not bool(torch.isfinite(mse).all()):
            raise ValueError(
                "the validation error is NaN or infinite: the validation vectors hold NaN, or training diverged"
            )
        self.validation = named_figures(self.quantizer, mse, usage)
        if not self.trainer.sanity_checking and self.baseline is None:
            self._validated_in_epoch = True
            self._report(self.validation)

    # -- state ----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the codeword statistics and what the model is; a diverged model is not worth keeping."""
        self._check_error()
        checkpoint["codeword_statistics"] = {name: value.cpu() for name, value in self.statistics.state_dict().items()}
        checkpoint["train_error"] = self._train_error.cpu()
        checkpoint["replay"], self._replay_of_all_ranks = self._replay_of_all_ranks, []
        checkpoint["validation"] = {"figures": self.validation, "in_epoch": self._validated_in_epoch}
        if self._plateau is not None:
            checkpoint["plateau"] = self._plateau.state_dict()
        checkpoint["quantizer"] = {"dim": self.quantizer.dim, **self.quantizer.config}
        checkpoint["state_dict"] = self.own_state()
        if self._lists is not None:
            checkpoint["centroids_sha256"] = self._lists.sha256

    def gather_replay(self) -> None:
        """Of every rank, before the first one writes a checkpoint; all ranks must call it."""
        every = self.replay.state_of_all_ranks(self.trainer.world_size)
        self._replay_of_all_ranks = every if self.trainer.is_global_zero else []

    def own_state(self) -> dict[str, Tensor]:
        """The model's weights, as of `state_dict`, without centroids, which the run does not change."""
        frozen = [] if self._lists is None else [f"quantizer.{name}" for name in self._coarse]
        return {name: value for name, value in self.state_dict().items() if name not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the codeword statistics back, and give the model its centroids.

        Raises:
            ValueError: the model is of another size, or its centroids are others, than in the checkpoint.
        """
        # before models had no `search`, their weights had other names
        if "validation" not in checkpoint or "search" in checkpoint["quantizer"]:
            raise ValueError(
                "cannot resume: an older version wrote the checkpoint, from which this one cannot end as the "
                "uninterrupted run; go on with that version, or start again"
            )
        self.validation = dict(checkpoint["validation"]["figures"])
        self._validated_in_epoch = checkpoint["validation"]["in_epoch"]
        self._plateau_state = checkpoint.get("plateau")
        then, now = checkpoint["quantizer"], {"dim": self.quantizer.dim, **self.quantizer.config}
        for name in {**then, **now}:  # a checkpoint of before an option existed lacks it
            there, here = then.get(name), now.get(name)
            if there != here and name not in _SEARCH:
                raise ValueError(f"cannot resume: the checkpoint's model has {name}={there}, this run's {name}={here}")
        device = self._train_error.device
        self.statistics.load_state_dict(checkpoint["codeword_statistics"], device)
        self._train_error = checkpoint["train_error"].to(device)
        self.replay.load(checkpoint.get("replay", []), self.trainer.global_rank, device)
        if self._lists is None:
            return
        if checkpoint["centroids_sha256"] != self._lists.sha256:
            raise ValueError("coarse.centroids: the file is not the one that the run was started with: restore it")
        for name, buffer in self.quantizer.named_buffers():  # how vectors are rotated and normalised
            if name not in self._coarse:
                buffer.copy_(checkpoint["state_dict"][f"quantizer.{name}"])
        self._lists.place(self.quantizer)
        own = self.quantizer.state_dict()
        checkpoint["state_dict"] |= {f"quantizer.{name}": own[name] for name in self._coarse}

    def _optimizer(self) -> Optimizer:
        return self.trainer.optimizers[0]

    def _sum(self, value: Tensor) -> Tensor:
        """Over all ranks; on a GPU nothing waits, where Lightning's `reduce` has a barrier."""
        if self.trainer.world_size == 1:
            return value
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total
