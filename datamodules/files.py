"""`data=files`: a user's own vectors."""

from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.vectors.metric import Metric


def open_files(
    *,
    train: str | None = None,
    database: str | None = None,
    queries: str | None = None,
    ground_truth: str | None = None,
    name: str = "files",
    batch_size: int = 1024,
    eval_batch_size: int | None = None,
    num_val: int = 10_000,
    limit_train: int | None = None,
    limit_database: int | None = None,
    epoch_size: int = 10_000_000,
    seed: int = 0,
    cache_dir: str = "data/cache",
    metric: Metric = "l2",
) -> VectorDataModule:
    """Return the data module of a user's own files, in any format of `open_vectors`; only `train` is required.

    The other arguments are those of `VectorDataModule`.

    Raises:
        ValueError: no training file, or a ground truth without the database or queries that it belongs to.
    """
    if train is None:
        raise ValueError(
            "data=files needs a training file: give data.train=FILE (and data.database=FILE data.queries=FILE)"
        )
    if ground_truth is not None and (database is None or queries is None):
        missing = "data.database" if database is None else "data.queries"
        raise ValueError(f"data.ground_truth={ground_truth} needs the files it belongs to: give {missing}=FILE too")
    return VectorDataModule(
        name=name,
        train_path=train,
        database_path=database,
        queries_path=queries,
        ground_truth_path=ground_truth,
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
