"""What tests of `qinco index` are made with; the fixtures `inputs` and `build` are in conftest.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.encoding.encode_file import encode
from qinco_lit.vectors import VectorFile, open_vectors
from qinco_lit.vectors.data_facts import DataSource

ROWS, TRAIN, VAL = 700, 900, 100
Build = Callable[..., dict[str, Any] | None]


def encode_file(codec_dir: Path, vectors: Path | VectorFile, output: Path, **options: Any) -> None:
    trainer = {"accelerator": "cpu", "devices": 1}
    rows = vectors if isinstance(vectors, VectorFile) else open_vectors(vectors)
    encode(codec=codec_dir, vectors=rows, output=output, trainer=trainer, **options)


def data_of(folder: Path, **options: Any) -> VectorDataModule:
    paths: dict[str, Any] = {"train": folder / "train.npy", "database": folder / "base.npy"}
    paths |= {name: options.pop(name) for name in ("train", "database", "queries") if name in options}
    return VectorDataModule(DataSource(name="files", **paths), **{"num_val": VAL, **options})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an index but those that hold times, and checksums of those."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in ("config.json", "report.json")}
