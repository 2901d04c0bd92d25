"""One data module for all sets: files of vectors in, batches and arrays out."""

import numpy as np
import pytorch_lightning as pl
from jaxtyping import Int64

from qinco_lit.data.ground_truth import exact_ground_truth, read_ground_truth
from qinco_lit.data.loader import SequentialLoader, StreamLoader
from qinco_lit.vectors import VectorFile, open_vectors
from qinco_lit.vectors.metric import METRICS, Metric
from qinco_lit.vectors.vector_dtypes import check_vector_dtype


class VectorDataModule(pl.LightningDataModule):
    """Training rows streamed from a file, validation rows from its end, a database, queries and their true neighbours.

    After `setup()`: `dim`; `train_vectors`, `val_vectors`, `database` and `queries`, each a VectorFile with the rows as
    stored, or of unit length where `metric` is cosine; `ground_truth`. Nothing is read into memory but the batches in
    flight and the ground truth.

    Args:
        name: of the data set, for run folders and reports.
        train_path: file whose last `num_val` rows are for validation and whose other rows are for training.
        database_path: file to compress and search; None: the validation rows.
        queries_path: file of queries; None: there are none, and no recall can be computed.
        ground_truth_path: ids of the true neighbours (ivecs, ibin, npy) by `metric`, taken as they are; they are
            computed when this is None or `limit_database` cuts the database.
        batch_size: training rows per batch and device.
        eval_batch_size: largest validation and test batch per device; None: `batch_size`.
        num_val: validation rows.
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
    train_vectors: VectorFile
    val_vectors: VectorFile
    database: VectorFile
    queries: VectorFile | None

    def __init__(
        self,
        *,
        name: str,
        train_path: str,
        database_path: str | None = None,
        queries_path: str | None = None,
        ground_truth_path: str | None = None,
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
        self.name: str = name
        self.train_path = train_path
        self.database_path = database_path
        self.queries_path = queries_path
        self.ground_truth_path = ground_truth_path
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

    def setup(self, stage: str = "") -> None:  # noqa: ARG002 (Lightning's signature; every stage needs the same files)
        """Open the files and check that they fit together; O(1) in time and memory but for a given ground truth.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: files that hold no vectors or of different dimensions, too few training rows, or a ground truth
                of other files.
        """
        train = self._open(self.train_path)
        num_train = len(train) - self.num_val
        if num_train < 1:
            raise ValueError(
                f"{self.train_path}: {len(train)} rows, data.num_val={self.num_val} leaves none to train on:"
                f" lower data.num_val to {max(1, len(train) // 10)}"
            )
        self.dim = train.shape[1]
        self.val_vectors = train.view(num_train, len(train))
        self.train_vectors = train.view(0, min(num_train, self.limit_train or num_train))
        self._first_database_row = num_train if self.database_path is None else 0
        database = self.val_vectors if self.database_path is None else self._open_like_train(self.database_path)
        self.database = database.view(0, self.limit_database or len(database))
        self.queries = None if self.queries_path is None else self._open_like_train(self.queries_path)
        self._ground_truth = None
        if self.queries is not None and self.ground_truth_path is not None and len(self.database) == len(database):
            self._ground_truth = read_ground_truth(
                self.ground_truth_path, num_queries=len(self.queries), num_database=len(self.database)
            )

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

    def _open(self, path: str) -> VectorFile:
        vectors = open_vectors(path)
        check_vector_dtype(vectors.dtype, path)
        return vectors.unit() if self.metric == "cosine" else vectors

    def _open_like_train(self, path: str) -> VectorFile:
        vectors = self._open(path)
        if vectors.shape[1] != self.dim:
            raise ValueError(
                f"{path} has dimension {vectors.shape[1]}, {self.train_path} has {self.dim}: give files of one data set"
            )
        return vectors
