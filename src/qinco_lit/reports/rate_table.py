"""The rates of an evaluation as a table: prefixes, shorter encodings and dedicated models, rate by rate."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from qinco_lit.reports.tables import model_label, search_text, speed_text, squared_error_text

# Two lines each on a terminal, so that the table fits into 80 columns.
_HEADER = (
    ("codes", ""), ("bytes", ""), ("found by", ""), ("MSE", ""), ("MSE", "/prefix"), ("R@1", "%"), ("R@10", "%"),
    ("R@100", "%"), ("encode", "vec/s"), ("decode", "vec/s"),
)  # fmt: skip
_TEXT_COLUMN = 2
_TITLE = "One codec at every rate"


def rates_table(record: dict[str, Any]) -> Table:
    """Return the table of the rates of a record of `evaluate` for a terminal."""
    table = Table(title=_TITLE, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for position, (name, unit) in enumerate(_HEADER):
        table.add_column(f"{name}\n{unit}", justify="left" if position == _TEXT_COLUMN else "right", no_wrap=True)
    for rows in _groups(record):
        for place, row in enumerate(rows, start=1):
            rate = row[:_TEXT_COLUMN] if place == 1 else [""] * _TEXT_COLUMN  # said once
            table.add_row(*rate, *row[_TEXT_COLUMN:], end_section=place == len(rows))
    return table


def rates_markdown(record: dict[str, Any]) -> str:
    """Return the same table as Markdown text."""
    rows = [tuple(f"{name} {unit}".strip() for name, unit in _HEADER)]
    rows.append(tuple(":--" if position == _TEXT_COLUMN else "--:" for position in range(len(_HEADER))))
    rows += [row for group in _groups(record) for row in group]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return f"# {_TITLE}\n\n" + "\n".join(lines) + f"\n\n{rates_notes(record)}\n"


def rates_notes(record: dict[str, Any]) -> str:
    """Return what the rows of the table are, a sentence a line."""
    codec, dedicated = record["codec"], record["rates"]["dedicated"]
    sentences = [
        f"prefix: the first of the {codec['num_steps']} codes that the codec finds; own search: the codec's encoding "
        "with so many codes.",
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


def _groups(record: dict[str, Any]) -> Iterator[list[tuple[str, ...]]]:
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
        yield [(*rate, name, *_cells(figures, prefix["mse"])) for name, figures in found.items()]


def _cells(figures: dict[str, Any], prefix_mse: float) -> tuple[str, ...]:
    recalls = [figures[f"recall_at_{k}"] for k in (1, 10, 100)]
    return (
        squared_error_text(figures["mse"]),
        f"{figures['mse'] / prefix_mse:.3f}" if prefix_mse > 0 else "",
        *("" if recall is None else f"{100 * recall:.1f}" for recall in recalls),
        speed_text(figures["encode_vectors_per_s"]),
        speed_text(figures["decode_vectors_per_s"]),
    )
