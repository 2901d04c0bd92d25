"""From a path to what it is."""

from pathlib import Path

from qinco_lit.reports.facts.folders import record_lines, runs_lines, training_lines
from qinco_lit.reports.facts.models import codec_lines, index_lines, index_parts_lines
from qinco_lit.reports.facts.reading import Lines, read
from qinco_lit.reports.facts.rows import rows_lines, unfinished_store_lines
from qinco_lit.reports.kit.texts import size_text
from qinco_lit.run_folder import TYPED

_PARTS = (
    "config.json", "summary.json", "weights.safetensors", "metrics.jsonl", "metrics.json", "search.json", "index.faiss",
)  # fmt: skip
_RECORDS = {"metrics.json": "evaluation", "search.json": "search", "plan.json": "plan", "results.json": "reproduction"}


def describe(path: str) -> tuple[str, Lines]:
    """What something is, and its facts, each a name and a text.

    Raises:
        FileNotFoundError: there is nothing, or a part of it is missing.
        ValueError: it is nothing that is made or read here, or damaged as far as headers tell.
    """
    place = Path(path)
    if place.is_dir():
        if (known := _folder(place)) is not None:
            return known
    elif place.suffix in (".pt", ".onnx") and place.is_file():
        return _exported(place)
    elif (shards := place.with_name(f"{place.name}.shards")).is_dir() and not place.exists():
        return unfinished_store_lines(place, shards)
    elif place.is_file() and place.name in _PARTS:
        raise ValueError(f"{path} is a part of what lies in its folder: qinco info {place.parent}")
    elif not place.suffix and not place.exists() and not any(each in path for each in "*?[:"):
        raise FileNotFoundError(f"{path}: no such file or folder")
    return rows_lines(path)


def _folder(folder: Path) -> tuple[str, Lines] | None:
    """None: it is none of what commands make but codes and vectors."""
    if (folder / "config.json").is_file():
        kind = read(folder / "config.json").get("format")
        if kind == "qinco_lit codec":
            return codec_lines(folder)
        if kind == "qinco_lit index":
            return index_lines(folder)
    if (folder / "part-00000" / "config.json").is_file():
        return index_parts_lines(folder)
    begun = (folder / TYPED).is_dir() and (folder / "train.log").is_file()  # it still looks for centroids, say
    if begun or any((folder / name).exists() for name in ("summary.json", "checkpoints")):
        return training_lines(folder)
    for name, what in _RECORDS.items():
        if (folder / name).is_file():
            return record_lines(folder, name, what)
    if (page := folder / "compare.html").is_file():
        return "comparison", [("read", str(page)), ("table", str(folder / "compare.csv"))]
    runs = sorted({found.parent for name in ("summary.json", *_RECORDS) for found in folder.glob(f"*/{name}")})
    if runs:
        return runs_lines(folder, runs)
    shards = folder.with_name(f"{folder.name}.shards")
    if shards.is_dir() and not any(folder.iterdir()):
        return unfinished_store_lines(folder, shards)
    return None


def _exported(file: Path) -> tuple[str, Lines]:
    size = ("size", size_text(file.stat().st_size))
    if file.suffix == ".onnx":
        return "model of ONNX", [size, ("run", "by onnxruntime, which also shows its metadata (docs/onnx.md)")]
    return "checkpoint of torch, unread", [size, ("import", f"qinco import {file} --output DIR")]
