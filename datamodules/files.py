"""`data=files`: a user's own vectors."""

from qinco_lit.vectors.data_facts import DataSource


def open_files(
    *,
    train: str | list[str] | None = None,
    database: str | list[str] | None = None,
    queries: str | list[str] | None = None,
    ground_truth: str | None = None,
    name: str = "files",
) -> DataSource:
    """Return where a user's own vectors are, all that `open_vectors` opens; only `train` is required.

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
    return DataSource(name=name, train=train, database=database, queries=queries, ground_truth=ground_truth)
