"""`data=photo_sift`: real SIFT descriptors built on this machine, the default data set."""

from pathlib import Path

from datamodules.photo_build import build_photo_sift, photo_sift_folder
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.vectors.metric import Metric


class PhotoSiftDataModule(VectorDataModule):
    """SIFT descriptors (128-d uint8) of the photographs inside scikit-image; `prepare_data()` builds the files once.

    See `build_photo_sift` for the files; the other arguments are those of `VectorDataModule`.

    Args:
        root: folder of all builds; each combination of sizes and `build_seed` is a folder of its own in it.
        num_train: rows to train on; the training file has `num_val` more at its end.
        num_val: validation rows.
        num_database: database rows, from photographs that training has never seen.
        num_queries: queries, from other views of the database photographs.
        build_seed: of the random views.
        build_workers: threads of the build, None: all cores; the files do not depend on it.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        *,
        root: str,
        num_train: int = 100_000,
        num_val: int = 10_000,
        num_database: int = 20_000,
        num_queries: int = 1_000,
        build_seed: int = 0,
        build_workers: int | None = None,
        batch_size: int = 1024,
        eval_batch_size: int | None = None,
        limit_train: int | None = None,
        limit_database: int | None = None,
        epoch_size: int = 10_000_000,
        seed: int = 0,
        cache_dir: str = "data/cache",
        metric: Metric = "l2",
    ) -> None:
        self.root = root
        self.num_train = num_train
        self.num_database = num_database
        self.num_queries = num_queries
        self.build_seed = build_seed
        self.build_workers = build_workers
        folder = photo_sift_folder(
            Path(root),
            num_train=num_train,
            num_val=num_val,
            num_database=num_database,
            num_queries=num_queries,
            seed=build_seed,
        )
        super().__init__(
            name="photo_sift",
            train_path=str(folder / "train.bvecs"),
            database_path=str(folder / "database.bvecs"),
            queries_path=str(folder / "queries.bvecs"),
            # by squared L2; by another metric they are computed
            ground_truth_path=str(folder / "groundtruth.ivecs") if metric == "l2" else None,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_val=num_val,
            limit_train=limit_train,
            limit_database=limit_database,
            epoch_size=epoch_size,
            seed=seed,
            cache_dir=cache_dir,
            metric=metric,
        )

    def prepare_data(self) -> None:
        """Build the files unless they are there; Lightning calls this on one process of each machine.

        Raises:
            ValueError: OpenCV or scikit-image is not installed.
        """
        build_photo_sift(
            Path(self.root),
            num_train=self.num_train,
            num_val=self.num_val,
            num_database=self.num_database,
            num_queries=self.num_queries,
            seed=self.build_seed,
            num_workers=self.build_workers,
        )
