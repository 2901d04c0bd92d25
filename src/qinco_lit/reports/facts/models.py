"""Codecs and indexes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinco_lit.reports.facts.folders import trained_lines
from qinco_lit.reports.facts.reading import Lines, checked, read, tensor_shapes
from qinco_lit.reports.kit.texts import model_label, search_text, size_text

_BUFFERS = ("data_mean", "data_std", "coarse_centroids", "rotation")  # in the file of weights, but not trained


def codec_lines(folder: Path) -> tuple[str, Lines]:
    """A codec, and its training where it lies in the folder of that."""
    config = read(folder / "config.json")
    return checked(
        folder / "config.json", lambda: (f"codec, {model_label(config['model'])}", _lines_of_codec(folder, config))
    )


def _lines_of_codec(folder: Path, config: Mapping[str, Any]) -> Lines:
    model, shapes = config["model"], tensor_shapes(folder / "weights.safetensors")
    trained = sum(math.prod(shape) for name, shape in shapes.items() if name.split(".")[-1] not in _BUFFERS)
    lists = "" if model["num_lists"] is None else f", and the number of one of {model['num_lists']:,} lists"
    parts = f"{model['num_parts']} parts, " if model.get("num_parts") else ""
    width = model["embed_dim"] or "as vectors"
    lines = [
        ("dim", f"{config['dim']:,}"),
        ("rate", f"{_rate(model)} a vector{lists}"),
        ("networks", f"{parts}blocks: {model['num_blocks']}, width {width}, hidden {model['hidden_dim']}"),
        ("parameters", f"{trained:,}"),
        ("search", f"{search_text(model)}, as trained"),
        ("weights", f"{config['weights_sha256'][:12]}, {size_text((folder / 'weights.safetensors').stat().st_size)}"),
    ]
    if cut := config.get("truncated_from"):
        lines.append(("cut from", f"weights {cut['weights_sha256'][:12]}, {cut['num_steps']} codes"))
    run_dir = folder.absolute().parent
    if folder.absolute().name == "codec" and (run_dir / "summary.json").is_file():
        lines += trained_lines(run_dir)
    lines.append(("measure", f"qinco evaluate codec={folder} data=CHOICE"))
    return lines


def _rate(model: Mapping[str, Any]) -> str:
    bits = model["num_steps"] * math.log2(model["codebook_size"])
    text = f"{bits / 8:g} bytes" if bits % 8 == 0 else f"{bits:.4g} bits"
    return f"{model['num_steps']} codes of {model['codebook_size']}: {text}"


def index_lines(folder: Path) -> tuple[str, Lines]:
    """An index, whose files are compared with their sizes."""
    config = read(folder / "config.json")
    return checked(folder / "config.json", lambda: ("index", _index_lines(folder, config)))


def _index_lines(folder: Path, config: Mapping[str, Any]) -> Lines:
    codec = read(folder / "codec" / "config.json")
    for name, part in config["parts"].items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: the index is not complete")
        if (found := (folder / name).stat().st_size) != part["bytes"]:
            raise ValueError(f"{folder / name} is damaged: {found:,} bytes, {part['bytes']:,} are expected")
    total = sum(part["bytes"] for part in config["parts"].values())
    mapped = sum(part["bytes"] for name, part in config["parts"].items() if name.endswith(".ivfdata"))
    # in memory the norm of a vector takes 2 bytes, in the file 1
    memory = f"{size_text(total - mapped + (0 if mapped else config['num_vectors']))}"
    pairwise = sum(part["bytes"] for name, part in config["parts"].items() if name.startswith("pairwise/"))
    return [
        ("vectors", f"{config['num_vectors']:,}, dim {config['dim']:,}, {config['metric']}"),
        ("rate", f"{_rate({**codec['model'], **config})} a vector, beside norm and id"),
        ("lists", f"{config['num_lists']:,}"),
        (
            "decoders",
            f"additive, {f'pairwise ({size_text(pairwise)}), ' if pairwise else ''}{model_label(codec['model'])}",
        ),
        ("memory", memory + (f", and {size_text(mapped)} of lists that stay on the disk" if mapped else "")),
        ("disk", size_text(total)),
        ("faiss reads", str(folder / "index.faiss")),
        ("search", f"qinco search index={folder} data=CHOICE"),
    ]


def index_parts_lines(folder: Path) -> tuple[str, Lines]:
    """The parts of an index in one folder."""
    parts = sorted(path for path in folder.glob("part-*") if (path / "config.json").is_file())
    vectors = sum(int(read(part / "config.json").get("num_vectors", 0)) for part in parts)
    return "index in parts", [
        ("parts", f"{len(parts)}, each an index: qinco info {parts[0]}"),
        ("vectors", f"{vectors:,}"),
        ("search", f'qinco_lit.ray.ShardedSearcher("{folder}"), or join them: qinco index … merge=true'),
    ]
