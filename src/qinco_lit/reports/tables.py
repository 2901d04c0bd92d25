"""The record of an evaluation as a table, for the terminal and for a file."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

# Two lines each on a terminal, so that the table fits into 80 columns.
_HEADER = (
    ("method", ""), ("bytes", ""), ("MSE", ""), ("MSE", "/codec"), ("R@1", "%"), ("R@10", "%"), ("R@100", "%"),
    ("entropy", "bits"), ("unused", "%"), ("encode", "vec/s"), ("decode", "vec/s"),
)  # fmt: skip

# What the sentence on recall says of the metric; squared L2 goes without saying.
_COMPARED = {
    "l2": "",
    "ip": "; nearest by inner product",
    "cosine": "; nearest by cosine: vectors were normalised to unit length, then the inner product",
}


def method_label(record: dict[str, Any], method: str) -> str:
    """Return the name of a method for readers: PQ, RQ, QINCo2."""
    return model_label(record["codec"]["model"]) if method == "codec" else method.upper()


def model_label(model: Mapping[str, Any]) -> str:
    """Return the name of a model's kind from its options: QINCo2, QINCo1-LR, PQ-QINCo1, OPQ-QINCo2."""
    parts = ("OPQ-" if model.get("opq") else "PQ-") if model.get("num_parts") else ""
    return f"{parts}QINCo{2 if model['outer_skip'] else 1}{'-LR' if model.get('concat_rank') else ''}"


def squared_error_text(mse: float) -> str:
    """Return a squared error with four digits or more, without an exponent where readers expect none."""
    return f"{mse:,.0f}" if mse >= 1000 else f"{mse:.4g}"


def rich_table(record: dict[str, Any]) -> Table:
    """Return the table of a record of `evaluate` for a terminal."""
    table = Table(title=_title(record), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for position, (name, unit) in enumerate(_HEADER):
        table.add_column(f"{name}\n{unit}", justify="left" if position == 0 else "right", no_wrap=True)
    for method in record["methods"]:
        table.add_row(*_cells(record, method), style="bold" if method == "codec" else "")
    return table


def markdown_table(record: dict[str, Any]) -> str:
    """Return the same table as Markdown text."""
    rows = [tuple(f"{name} {unit}".strip() for name, unit in _HEADER), (":--", *["--:"] * (len(_HEADER) - 1))]
    rows += [_cells(record, method) for method in record["methods"]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return f"# {_title(record)}\n\n" + "\n".join(lines) + f"\n\n{table_notes(record)}\n"


def _title(record: dict[str, Any]) -> str:
    data = record["data"]
    return f"{data['name']}: {data['num_database']:,} database vectors of dimension {data['dim']}"


def table_notes(record: dict[str, Any]) -> str:
    """Return what the figures of the table mean and how they were measured, a sentence a line."""
    threads = record["num_threads"]
    codec = record["codec"]
    cached = [method.upper() for method, row in record["methods"].items() if row.get("from_cache")]
    sentences = [
        "MSE: mean over vectors of the sum over dimensions, raw space.",
        "R@k: true nearest neighbour among the first k of exact search in the reconstructions, "
        f"{record['data']['num_queries']:,} queries{_COMPARED[record['data']['metric']]}.",
        f"Codec: {_encoding(codec)}, on {record['device']};"
        f" threads: torch {threads['torch']}, faiss {threads['faiss']}.",
    ]
    if cached:
        sentences.append(f"From the cache, with the speeds of then: {', '.join(cached)}.")
    return "\n".join(sentences)


def _cells(record: dict[str, Any], method: str) -> tuple[str, ...]:
    row, codec_mse = record["methods"][method], record["methods"]["codec"]["mse"]
    recalls = [row[f"recall_at_{k}"] for k in (1, 10, 100)]
    return (
        method_label(record, method),
        f"{row['bytes_per_vector']:g}",
        squared_error_text(row["mse"]),
        f"{row['mse'] / codec_mse:.3f}" if codec_mse > 0 else "",
        *("" if recall is None else f"{100 * recall:.1f}" for recall in recalls),
        f"{_mean(row['entropy_bits']):.2f}",
        f"{100 * _mean(row['unused_share']):.1f}",
        speed_text(row["encode_vectors_per_s"]),
        speed_text(row["decode_vectors_per_s"]),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def speed_text(value: float) -> str:
    """Return a speed with three digits and a unit: 653, 17.0k, 5.28M."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            return f"{value / unit:#.3g}".rstrip(".") + suffix
    return f"{value:.3g}"


def _encoding(codec: dict[str, Any]) -> str:
    """Return how the codec's codes were found."""
    whole = codec["model"]["num_steps"]
    some = f"{codec['num_steps']} of its {whole} codes, " if codec["num_steps"] < whole else ""
    return some + search_text(codec)


def search_text(codec: dict[str, Any]) -> str:
    """Return the breadth of a search in words: beam 8, 16 candidates a step."""
    if codec["candidate_budget"] is not None:
        candidates = f"{codec['candidate_budget']} candidates a step"
    else:
        candidates = f"{codec['num_candidates'] or 'all'} candidates per hypothesis"
    return f"beam {codec['beam_size']}, {candidates}"
