"""One data module for all sets: files of vectors in, batches and arrays out."""

import inspect
import typing
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Int64
from pytorch_lightning import LightningDataModule

from qinco_lit.data.ground_truth import exact_ground_truth, read_ground_truth
from qinco_lit.data.loader import SequentialLoader, StreamLoader
from qinco_lit.vectors import VectorFile, as_vectors_file
from qinco_lit.vectors.data_facts import DataSource
from qinco_lit.vectors.layout import check_vector_dtype
from qinco_lit.vectors.neighbours import METRICS, Metric


class VectorDataModule(LightningDataModule):
    """Training rows streamed from a file, validation rows from its end, a database, queries and their true neighbours.

    After `setup()`: `dim`; `train_vectors`, `val_vectors`, `database` and `queries`, each a VectorFile with the rows as
    stored, or of unit length where `metric` is cosine; `ground_truth`. Nothing is read into memory but the batches in
    flight and the ground truth.

    Args:
        files: where the vectors are, and what the set is called.
        batch_size: training rows per batch and device.
        eval_batch_size: largest validation and test batch per device; None: `batch_size`.
        num_val: validation rows, at the end of the training file; not read where the set has a file of them.
        limit_train: train on the first rows only; None: all.
        limit_database: keep the first database rows only; None: all.
        epoch_size: training rows per epoch over all devices; the next epoch goes on in the file where this one stopped.
        seed: of the streaming order.
        cache_dir: where computed ground truth is kept.
        metric: what nearest means: l2 (squared L2), ip (the largest inner products), cosine: all rows are divided by
            their L2 norm when they are read, float32, and the inner product of those compares them.
    """

    dim: int
    metric: Metric
    database: VectorFile
    queries: VectorFile | None

    def __init__(
        self,
        files: DataSource,
        *,
        batch_size: int = 1024,
        eval_batch_size: int | None = None,
        num_val: int = 10_000,
        limit_train: int | None = None,
        limit_database: int | None = None,
        epoch_size: int = 10_000_000,
        seed: int = 0,
        cache_dir: str = "data/cache",
        metric: str = "l2",
    ) -> None:
        super().__init__()
        limits = {"limit_train": limit_train, "limit_database": limit_database, "eval_batch_size": eval_batch_size}
        for option, value in {"batch_size": batch_size, "num_val": num_val, "epoch_size": epoch_size, **limits}.items():
            if value is not None and value < 1:
                raise ValueError(f"data.{option}={value}: give at least 1")
        known = next((each for each in METRICS if each == metric), None)
        if known is None:
            raise ValueError(f"data.metric={metric}: give one of {', '.join(METRICS)}")
        self.metric = known
        self.files, self.name = files, files.name
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_val = num_val
        self.limit_train = limit_train
        self.limit_database = limit_database
        self.epoch_size = epoch_size
        self.seed = seed
        self.cache_dir = cache_dir
        self._first_database_row = 0
        self._ground_truth: Int64[np.ndarray, "num_queries k"] | None = None
        self._train_loader: StreamLoader | None = None
        self._resume_state: dict[str, int] = {}

    def prepare_data(self) -> None:
        """Make the files that make themselves; Lightning calls this on one process of each machine."""
        self.files.prepare()

    def setup(self, stage: str = "") -> None:  # noqa: ARG002 (Lightning's signature; every stage needs the same files)
        """Open the files and check that they fit together; O(1) in time and memory but for a given ground truth.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: files that hold no vectors or of different dimensions, too few training rows where they are the
                database, or a ground truth of other files.
        """
        files = self.files
        train = self._train = self._open(files.train, "train")
        self.dim = train.shape[1]
        self._val = None if files.val is None else self._open_like(train, files.val, "val")
        self._first_database_row = 0
        if files.database is not None:
            database = self._open_like(train, files.database, "database")
        else:
            database = self.val_vectors
            if files.val is None:
                self._first_database_row = self._split()
        self.database = database.view(0, self.limit_database or len(database))
        self.queries = None if files.queries is None else self._open_like(train, files.queries, "queries")
        self._ground_truth = None
        if self.queries is not None and files.ground_truth is not None and len(self.database) == len(database):
            self._ground_truth = read_ground_truth(
                files.ground_truth, num_queries=len(self.queries), num_database=len(self.database)
            )

    @property
    def train_vectors(self) -> VectorFile:
        """Rows to train on. Raises ValueError where validation leaves none; encoding a database needs none."""
        num_train = len(self._train) if self._val is not None else self._split()
        return self._train.view(0, min(num_train, self.limit_train or num_train))

    @property
    def val_vectors(self) -> VectorFile:
        """Rows to validate with. Raises ValueError as `train_vectors`."""
        return self._train.view(self._split(), len(self._train)) if self._val is None else self._val

    def _split(self) -> int:
        """Where the validation rows begin in the training file."""
        num_train = len(self._train) - self.num_val
        if num_train < 1:
            raise ValueError(
                f"{self._train.path}: {len(self._train)} rows, data.num_val={self.num_val} leaves none to train on:"
                f" lower data.num_val to {max(1, len(self._train) // 10)}"
            )
        return num_train

    @property
    def ground_truth(self) -> Int64[np.ndarray, "num_queries k"]:
        """Ids of the nearest database rows of each query by `metric`, nearest first.

        Without a file they are computed at the first use, as training needs none, and kept in `cache_dir`.

        Raises:
            ValueError: the data set has no queries.
        """
        if self._ground_truth is None:
            if self.queries is None:
                raise ValueError(f"data set {self.name} has no queries, so no true neighbours: give data.queries=FILE")
            self._ground_truth = exact_ground_truth(
                self.queries,
                self.database,
                first_row=self._first_database_row,
                cache_dir=self.cache_dir,
                metric=self.metric,
            )
        return self._ground_truth

    def train_dataloader(self) -> StreamLoader:
        """Shuffled training batches (batch, dim) of this rank in the type of the rows, resumable in mid-epoch."""
        rank, world_size = self._place()
        self._train_loader = StreamLoader(
            self.train_vectors,
            batch_size=self.batch_size,
            epoch_size=self.epoch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            num_unfinished=self._num_unfinished,
            pin_memory=self._feeds_a_gpu(),
        )
        if self._resume_state:
            self._train_loader.load_state_dict(self._resume_state)
            self._resume_state = {}
        return self._train_loader

    def state_dict(self) -> dict[str, int]:
        """Return the place in the training stream, for the checkpoint.

        Lightning stores the state of the loader too, but does not restore that one from a checkpoint of an epoch's end.
        """
        return {} if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue at a place saved by `state_dict`, from the next `train_dataloader` on."""
        self._resume_state = state_dict

    def val_dataloader(self) -> SequentialLoader:
        """Validation batches in file order, this rank's contiguous share."""
        return self._in_order(self.val_vectors)

    def test_dataloader(self) -> SequentialLoader:
        """Database batches in file order, this rank's contiguous share."""
        return self._in_order(self.database)

    def _in_order(self, vectors: VectorFile) -> SequentialLoader:
        rank, world_size = self._place()
        return SequentialLoader(
            vectors,
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
            pin_memory=self._feeds_a_gpu(),
        )

    def _place(self) -> tuple[int, int]:
        """Return (rank, number of ranks)."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _feeds_a_gpu(self) -> bool:
        """Whether the job runs on one; that the machine has one says nothing."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _num_unfinished(self) -> int:
        """Batches that the trainer has fetched and not trained on: one in the middle of a step, else none."""
        if self.trainer is None:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(progress.ready - progress.processed)  # type: ignore[attr-defined]  # Lightning types it too widely

    def _open(self, given: Any, name: str) -> VectorFile:
        vectors = as_vectors_file(given, name)
        check_vector_dtype(vectors.dtype, vectors.path)
        return vectors.unit() if self.metric == "cosine" else vectors

    def _open_like(self, train: VectorFile, given: Any, name: str) -> VectorFile:
        vectors = self._open(given, name)
        if vectors.shape[1] != self.dim:
            raise ValueError(
                f"{vectors.path} has dimension {vectors.shape[1]}, {train.path} has {self.dim}: "
                "give files of one data set"
            )
        return vectors


def data_module(options: Mapping[str, Any], **given: Any) -> LightningDataModule:
    """The data module of a data config: what its `_target_` says where the vectors are, in a `VectorDataModule`.

    A target that is a LightningDataModule, or returns one, takes all options itself. Of the others each gets those that
    it has a parameter for, and the VectorDataModule those that it has.

    Args:
        options: a data config, with `_target_`.
        given: what the program supplies; like options, for who has a parameter for it.

    Raises:
        ValueError, FileNotFoundError: as the target and `VectorDataModule`.
    """
    target = data_target(options)
    values = {name: value for name, value in options.items() if not name.startswith("_")}
    own = inspect.signature(target).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())
    known = {name: value for name, value in given.items() if takes_any or name in own}
    if not is_data_module(target) and not takes_any:
        known |= {name: value for name, value in values.items() if name in own}
    else:
        known |= values
    made = target(**known)
    if isinstance(made, LightningDataModule):
        return made
    types = option_types()
    return VectorDataModule(made, **{name: value for name, value in (values | given).items() if name in types})


def data_target(options: Mapping[str, Any]) -> Callable[..., Any]:
    """What the `_target_` of a data config names."""
    module, _, name = str(options["_target_"]).rpartition(".")
    target: Callable[..., Any] = getattr(import_module(module), name)
    return target


def is_data_module(target: Callable[..., Any]) -> bool:
    """Whether a target takes all options of its config itself, as a LightningDataModule."""
    made = target if inspect.isclass(target) else typing.get_type_hints(target).get("return")
    return inspect.isclass(made) and issubclass(made, LightningDataModule)


def option_types() -> dict[str, Any]:
    """The options of every set of files, with their types."""
    hints = typing.get_type_hints(VectorDataModule.__init__)
    return {name: hint for name, hint in hints.items() if name not in ("files", "return")} | {"metric": Metric}
