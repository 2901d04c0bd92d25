"""The data sets of the papers: facts about their files, and the function that says where they are.

Sources: the QINCo papers (arXiv 2401.14732, 2501.03078), the TexMex corpus page, the big-ann-benchmarks page. The urls
were not tried by our tests. None stands for a number that no source states; nothing is guessed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinco_lit.vectors import open_vectors
from qinco_lit.vectors.data_facts import DataFacts, DataFile, DataSource
from qinco_lit.vectors.neighbours import Metric

_QINCO = "https://dl.fbaipublicfiles.com/QINCo/datasets"
_TEXMEX = "ftp://ftp.irisa.fr/local/texmex/corpus"
_DEEP = "https://storage.yandexcloud.net/yandex-research/ann-datasets/DEEP"
_BIG_ANN = "https://dl.fbaipublicfiles.com/billion-scale-ann-benchmarks"


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one size of a data set; without a ground truth the neighbours are computed."""

    train: DataFile
    database: DataFile
    queries: DataFile
    ground_truth: DataFile | None


@dataclass(frozen=True)
class Dataset:
    """A data set of the papers: vectors compared by squared L2, in one or more sizes."""

    name: str
    description: str
    citation: str
    dim: int
    dtype: str
    sizes: dict[str, DatasetFiles]

    def download_command(self, size: str) -> str:
        """Return the command that brings the files of a size."""
        return f"qinco download {self.name}" + (" --small" if size == "1M" else "")


_MILLION, _BILLION = 10**6, 10**9


def _bigann() -> Dataset:
    def vectors(path: str, url: str, num_rows: int) -> DataFile:
        return DataFile(path, url, "uint8", num_rows, 128)

    def neighbours(path: str, url: str, k: int | None) -> DataFile:
        return DataFile(path, url, "int32", 10_000, k)

    queries = vectors("bigann_query.bvecs", f"{_TEXMEX}/bigann_query.bvecs.gz", 10_000)
    learn_10m = f"{_QINCO}/bigann/bigann_learn_10M10k.bvecs"
    small = DatasetFiles(
        train=vectors("bigann_learn_10M10k.bvecs", learn_10m, 10_010_000),
        database=vectors("bigann1M.bvecs", f"{_QINCO}/bigann/bigann1M.bvecs", _MILLION),
        queries=queries,
        ground_truth=neighbours("gnd/idx_1M.ivecs", f"{_QINCO}/bigann/gnd/idx_1M.ivecs", None),
    )
    full = DatasetFiles(
        train=vectors("bigann_learn.bvecs", f"{_TEXMEX}/bigann_learn.bvecs.gz", 100 * _MILLION),
        database=vectors("bigann_base.bvecs", f"{_TEXMEX}/bigann_base.bvecs.gz", _BILLION),
        queries=queries,
        ground_truth=neighbours("gnd/idx_1000M.ivecs", f"{_TEXMEX}/bigann_gnd.tar.gz", 1000),
    )
    return Dataset(
        name="bigann",
        description="BigANN (SIFT1B): SIFT descriptors of web images",
        citation="Jégou et al.: Searching in one billion vectors: re-rank with source coding. ICASSP 2011",
        dim=128,
        dtype="uint8",
        sizes={"1M": small, "1B": full},
    )


def _deep1b() -> Dataset:
    def vectors(path: str, url: str, num_rows: int | None) -> DataFile:
        return DataFile(path, f"{url}/{path}", "float32", num_rows, 96)

    def neighbours(path: str) -> DataFile:
        return DataFile(path, f"{_QINCO}/deep1b/{path}", "int32", 10_000, None)

    queries = vectors("query.public.10K.fbin", _DEEP, 10_000)
    small = DatasetFiles(
        train=vectors("learn10M10k.fvecs", f"{_QINCO}/deep1b", 10_010_000),
        database=vectors("base1M.fvecs", f"{_QINCO}/deep1b", _MILLION),
        queries=queries,
        ground_truth=neighbours("deep1M_groundtruth.ivecs"),
    )
    full = DatasetFiles(
        train=vectors("learn.350M.fbin", _DEEP, None),  # 358M in the papers
        database=vectors("base.1B.fbin", _DEEP, _BILLION),
        queries=queries,
        ground_truth=neighbours("deep1B_groundtruth.ivecs"),
    )
    return Dataset(
        name="deep1b",
        description="Deep1B: image descriptors of a convolutional network",
        citation="Babenko, Lempitsky: Efficient indexing of billion-scale datasets of deep descriptors. CVPR 2016",
        dim=96,
        dtype="float32",
        sizes={"1M": small, "1B": full},
    )


def _contriever() -> Dataset:
    def vectors(path: str, num_rows: int | None) -> DataFile:
        return DataFile(path, f"{_QINCO}/ContrieverEmb/{path}", "float32", num_rows, 768)

    small = DatasetFiles(
        train=vectors("training_set.npy", None),  # 20M in the papers
        database=vectors("database1M.npy", _MILLION),
        queries=vectors("queries.npy", 10_000),
        ground_truth=DataFile(
            "ground_truth1M.npy", f"{_QINCO}/ContrieverEmb/ground_truth1M.npy", "int32", 10_000, None
        ),
    )
    return Dataset(
        name="contriever",
        description="Contriever: embeddings of text passages of Wikipedia",
        citation="Izacard et al.: Unsupervised dense information retrieval with contrastive learning. TMLR 2022",
        dim=768,
        dtype="float32",
        sizes={"1M": small},
    )


def _fb_ssnpp() -> Dataset:
    def vectors(path: str, num_rows: int) -> DataFile:
        return DataFile(path, f"{_QINCO}/FB_ssnpp/{path}", "uint8", num_rows, 256)

    train = vectors("training_set10010k.npy", 10_010_000)
    queries = vectors("queries.npy", 10_000)
    small = DatasetFiles(
        train=train,
        database=vectors("database1M.npy", _MILLION),
        queries=queries,
        ground_truth=DataFile("ground_truth1M.npy", f"{_QINCO}/FB_ssnpp/ground_truth1M.npy", "int32", 10_000, None),
    )
    full = DatasetFiles(
        train=train,
        database=DataFile("FB_ssnpp_database.u8bin", f"{_BIG_ANN}/FB_ssnpp_database.u8bin", "uint8", _BILLION, 256),
        queries=queries,
        ground_truth=None,  # the public one lists rows within a radius, not nearest rows
    )
    return Dataset(
        name="fb_ssnpp",
        description="FB-ssnpp: SimSearchNet++ descriptors of images, made for copy detection",
        citation="Simhadri et al.: Results of the NeurIPS'21 challenge on billion-scale nearest neighbor search. 2022",
        dim=256,
        dtype="uint8",
        sizes={"1M": small, "1B": full},
    )


CATALOGUE: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (_bigann(), _deep1b(), _contriever(), _fb_ssnpp())
}


def open_dataset(*, name: str, root: str, size: str = "1M", metric: Metric = "l2") -> DataSource:
    """Return where the files of a data set of the papers are.

    `name` is a key of `CATALOGUE`, `root` the folder of its files, `size` 1M or 1B: the rows of the database, with the
    training file that goes with it. The ground truth that comes with a set is by squared L2: for another `metric` the
    neighbours are computed.

    Raises:
        ValueError: no such data set or size.
        FileNotFoundError: a file is missing; the message names it and the command that brings it.
    """
    dataset, files = _found(name, size)
    train, database, queries = (
        _present(file, root, dataset, size) for file in (files.train, files.database, files.queries)
    )
    truth = files.ground_truth if metric == "l2" else None
    truth_path = None if truth is None else _present(truth, root, dataset, size)
    return DataSource(name=name, train=train, database=database, queries=queries, ground_truth=truth_path)


def published_files(*, name: str, small: bool) -> list[DataFile]:
    """Return the files that `qinco download` brings: those of the smallest or of the largest size of a set.

    Raises:
        ValueError: no such data set.
    """
    _, files = _found(name, "1M")
    if not small:
        files = list(CATALOGUE[name].sizes.values())[-1]
    found = (files.train, files.database, files.queries, files.ground_truth)
    return [file for file in found if file is not None]


def missing_files(*, name: str, root: str, size: str = "1M", metric: Metric = "l2", **_: Any) -> str | None:
    """Return what brings the files of a set that are not there and how large they are; None when all are.

    Takes what `open_dataset` takes. Raises ValueError for no such data set or size.
    """
    dataset, files = _found(name, size)
    truth = files.ground_truth if metric == "l2" else None
    wanted = [file for file in (files.train, files.database, files.queries, truth) if file is not None]
    absent = [file for file in wanted if not (Path(root) / file.path).is_file()]
    if not absent:
        return None
    known = [file.size_bytes for file in absent if file.size_bytes is not None]
    more = f" and {len(absent) - len(known)} of unknown size" if len(known) < len(absent) else ""
    brings = f"`{dataset.download_command(size)}` brings {', '.join(file.path for file in absent)}"
    return f"{brings}: {sum(known) / 1e9:.1f} GB{more}"


def describe(
    *,
    name: str,
    root: str,
    size: str = "1M",
    num_val: int = 10_000,
    limit_train: int | None = None,
    limit_database: int | None = None,
    epoch_size: int = 10_000_000,
    metric: Metric = "l2",
    **_: Any,
) -> DataFacts:
    """Return what is known of a data set whose files may be missing; takes what `open_dataset` takes.

    A file that is there counts, with the rows it has; for others the catalogue does.

    Raises:
        ValueError: no such data set or size, or a file that is damaged.
    """
    dataset, files = _found(name, size)
    paths = {file: Path(root) / file.path for file in (files.database, files.train)}
    opened = {file: open_vectors(path) for file, path in paths.items() if path.is_file()}
    if metric == "cosine":
        opened = {file: rows.unit() for file, rows in opened.items()}
    num_rows = {file: len(opened[file]) if file in opened else file.num_rows for file in paths}
    num_train = num_rows[files.train]
    num_train = limit_train if num_train is None else min(num_train - num_val, limit_train or num_train)
    num_database = num_rows[files.database]
    num_database = limit_database if num_database is None else min(num_database, limit_database or num_database)
    is_there, rows = files.database in opened, next(iter(opened.values()), None)
    return DataFacts(
        name=name if len(dataset.sizes) == 1 else f"{name} {size}",
        dim=dataset.dim if rows is None else rows.shape[1],
        dtype=rows.dtype.name if rows is not None else "float32" if metric == "cosine" else dataset.dtype,
        num_database=num_database,
        num_train=num_train,
        epoch_size=epoch_size if num_train is None else min(epoch_size, num_train),
        database_bytes=paths[files.database].stat().st_size if is_there else files.database.size_bytes,
        rows=rows,
    )


def _found(name: str, size: str) -> tuple[Dataset, DatasetFiles]:
    if name not in CATALOGUE:
        raise ValueError(f"data set {name!r} is not in the catalogue: choose from {', '.join(CATALOGUE)}")
    dataset = CATALOGUE[name]
    if size not in dataset.sizes:
        raise ValueError(f"data set {name} has no size {size!r}: choose data.size={' or '.join(dataset.sizes)}")
    return dataset, dataset.sizes[size]


def _present(file: DataFile, root: str, dataset: Dataset, size: str) -> str:
    path = Path(root) / file.path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: `{dataset.download_command(size)}` brings it")
    return str(path)
