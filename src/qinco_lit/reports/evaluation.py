"""The record of an evaluation as tables, for the terminal and for files: methods, and one codec at every rate."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from qinco_lit.metrics import RECALL_AT
from qinco_lit.reports.kit.tables import Grid
from qinco_lit.reports.kit.texts import method_label, model_label, number_text, percent, search_text, speed_text

# Two lines each on a terminal, so that the tables fit into 80 columns.
_RECALLS = tuple(f"R@{k}\n%" for k in RECALL_AT)
_SPEEDS = ("encode\nvec/s", "decode\nvec/s")
_METHODS = ("method\n", "bytes\n", "MSE\n", "MSE\n/codec", *_RECALLS, "entropy\nbits", "unused\n%", *_SPEEDS)
_RATES = ("codes\n", "bytes\n", "found by\n", "MSE\n", "MSE\n/prefix", *_RECALLS, *_SPEEDS)
_FOUND_BY = 2

# What the sentence on recall says of the metric; squared L2 goes without saying.
_COMPARED = {
    "l2": "",
    "ip": "; nearest by inner product",
    "cosine": "; nearest by cosine: vectors were normalised to unit length, then the inner product",
}


# --- methods --------------------------------------------------------------------------------------------------------


def rich_table(record: Mapping[str, Any]) -> Table:
    """Return the table of a record of `evaluate` for a terminal."""
    return _methods(record).rich()


def markdown_table(record: Mapping[str, Any]) -> str:
    """Return the same table as Markdown text."""
    grid = _methods(record)
    return f"# {grid.title}\n\n{grid.markdown()}\n\n{table_notes(record)}\n"


def table_notes(record: Mapping[str, Any]) -> str:
    """Return what the figures of the table mean and how they were measured, a sentence a line."""
    threads, codec = record["num_threads"], record["codec"]
    cached = [method.upper() for method, row in record["methods"].items() if row.get("from_cache")]
    whole = codec["model"]["num_steps"]
    some = f"{codec['num_steps']} of its {whole} codes, " if codec["num_steps"] < whole else ""
    list_id = ""
    if bits := _list_bits(codec):
        list_id = (
            f"Bytes: of the codes, and of the list id ({bits} bits for {codec['model']['num_lists']:,} lists), which "
            "an index implies by place, and which the other methods do not have."
        )
    sentences = [
        *([list_id] if list_id else []),
        "MSE: mean over vectors of the sum over dimensions, raw space.",
        "R@k: true nearest neighbour among the first k of exact search in the reconstructions, "
        f"{record['data']['num_queries']:,} queries{_COMPARED[record['data']['metric']]}.",
        f"Codec: {some}{search_text(codec)}, on {record['device']};"
        f" threads: torch {threads['torch']}, faiss {threads['faiss']}.",
    ]
    if cached:
        sentences.append(f"From the cache, with the speeds of then: {', '.join(cached)}.")
    return "\n".join(sentences)


def _methods(record: Mapping[str, Any]) -> Grid:
    data, methods = record["data"], record["methods"]
    title = f"{data['name']}: {data['num_database']:,} database vectors of dimension {data['dim']}"
    rows = []
    for method, row in methods.items():
        error, *others = _figures(row, methods["codec"]["mse"])
        codes = (f"{_mean(row['entropy_bits']):.2f}", f"{100 * _mean(row['unused_share']):.1f}")
        label, num_bytes = method_label(record, method), f"{row['bytes_per_vector']:g}"
        if method == "codec" and (list_bits := _list_bits(record["codec"])):
            num_bytes += f"+{list_bits / 8:.2g}"
        rows.append((label, num_bytes, error, *others[:-2], *codes, *others[-2:]))
    return Grid(_METHODS, rows, title, bold=(list(methods).index("codec"),))


def _list_bits(codec: Mapping[str, Any]) -> int:
    """Bits of the list id that a vector has beside its codes; 0 where the codec has no lists."""
    return ((codec["model"].get("num_lists") or 1) - 1).bit_length()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _figures(row: Mapping[str, Any], reference_mse: float) -> tuple[str, ...]:
    """Error, the same relative to another, recalls, speeds."""
    return (
        number_text(row["mse"]),
        f"{row['mse'] / reference_mse:.3f}" if reference_mse > 0 else "",
        *(percent(row[f"recall_at_{k}"]) for k in RECALL_AT),
        speed_text(row["encode_vectors_per_s"]),
        speed_text(row["decode_vectors_per_s"]),
    )


# --- rates ----------------------------------------------------------------------------------------------------------


def rates_table(record: Mapping[str, Any]) -> Table:
    """Return the table of the rates of a record of `evaluate` for a terminal: each rate is said once."""
    grid = _rates(record)
    starts = {0, *(place + 1 for place in grid.ends)}
    rows = [row if place in starts else ("", "", *row[_FOUND_BY:]) for place, row in enumerate(grid.rows)]
    return Grid(grid.header, rows, grid.title, left=grid.left, ends=grid.ends).rich()


def rates_markdown(record: Mapping[str, Any]) -> str:
    """Return the same table as Markdown text."""
    grid = _rates(record)
    return f"# {grid.title}\n\n{grid.markdown()}\n\n{rates_notes(record)}\n"


def rates_notes(record: Mapping[str, Any]) -> str:
    """Return what the rows of the table are, a sentence a line."""
    codec, dedicated = record["codec"], record["rates"]["dedicated"]
    sentences = [
        f"prefix: the first of the {codec['num_steps']} codes that the codec finds; own search: the codec's encoding "
        "with so many codes."
    ]
    if dedicated:
        models = (f"{each['num_steps']}: {model_label(each['model'])} in {each['path']}" for each in dedicated)
        sentences.append(f"dedicated: a model that was trained for so many codes ({'; '.join(models)}).")
    sentences += [
        f"The dedicated model of {each['num_steps']} codes was searched with {search_text(each)}, the codec with "
        f"{search_text(codec)}: what they differ in is not the training alone."
        for each in dedicated
        if search_text(each) != search_text(codec)
    ]
    return "\n".join(sentences)


def _rates(record: Mapping[str, Any]) -> Grid:
    rows: list[tuple[str, ...]] = []
    ends = []
    for group in _groups(record):
        rows += group
        ends.append(len(rows) - 1)
    return Grid(_RATES, rows, "One codec at every rate", left=(_FOUND_BY,), ends=ends)


def _groups(record: Mapping[str, Any]) -> Iterator[list[tuple[str, ...]]]:
    """Yield the rows of one rate after the other."""
    whole = record["methods"]["codec"]
    for point in record["rates"]["points"]:
        # what a prefix costs is the search for all codes, and the decoding of the first ones
        prefix = {**point["encoded"], **point["prefix"], "encode_vectors_per_s": whole["encode_vectors_per_s"]}
        found = {f"prefix of {whole['num_steps']}": prefix, "own search": point["encoded"]}
        if point["num_steps"] == whole["num_steps"]:
            found = {f"all {whole['num_steps']}": point["encoded"]}
        if point["dedicated"] is not None:
            found["dedicated"] = point["dedicated"]
        rate = (str(point["num_steps"]), f"{point['bytes_per_vector']:g}")
        yield [(*rate, name, *_figures(figures, prefix["mse"])) for name, figures in found.items()]
