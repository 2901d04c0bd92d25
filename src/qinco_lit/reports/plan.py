"""A plan as tables and sentences, for the terminal and for a file."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

_UNITS = ((365.25 * 86_400, "years"), (86_400.0, "days"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))
_WORK = {"encode": "encode", "decode": "decode", "epoch": "train, 1 epoch", "training": "train, {} epochs"}


class Grid(NamedTuple):
    """A table as text: the first column is aligned to the left, the others to the right."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def time_text(seconds: float) -> str:
    """Return a time in one unit with three digits, as many as an extrapolation bears: `3.47 days`."""
    size, unit = _unit(seconds)
    return f"{_three_digits(seconds / size)} {unit}"


def _unit(seconds: float) -> tuple[float, str]:
    return next(((size, unit) for size, unit in _UNITS if seconds >= 1.5 * size), _UNITS[-1])


def _range_text(time: dict[str, float]) -> str:
    """The fastest and the slowest in the unit of the median: `3.12 – 3.61`."""
    size, _ = _unit(time["seconds"])
    return f"{_three_digits(time['at_least_s'] / size)} – {_three_digits(time['at_most_s'] / size)}"


def size_text(num_bytes: float) -> str:
    """Return a size in decimal units with three digits: `8.00 GB`."""
    units = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    size, unit = next(((size, unit) for size, unit in units if num_bytes >= size), (1.0, "bytes"))
    return f"{num_bytes:.0f} bytes" if size == 1.0 else f"{_three_digits(num_bytes / size)} {unit}"


def count_text(count: float) -> str:
    """Return a count short enough for a table: `1,000M`, `81.4k`, `3,072`."""
    for size, unit, least in ((1e6, "M", 1e6), (1e3, "k", 1e4)):
        if count >= least:
            return f"{_three_digits(count / size)}{unit}".replace(".00", "").replace(".0k", "k").replace(".0M", "M")
    return _three_digits(count) if count < 100 and count != int(count) else f"{count:,.0f}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def grids(record: dict[str, Any]) -> Iterator[Grid]:
    """Yield the tables of a record of `plan`."""
    yield _times(record)
    yield _sizes(record)
    yield _doublings(record)


def _times(record: dict[str, Any]) -> Grid:
    settings, measured = record["settings"], record["measured"]
    rates = {**measured, "epoch": measured["training"]}
    rows = []
    for name, label in _WORK.items():
        time, rate = record["times"][name], rates[name]
        rows.append(
            (
                label.format(settings["max_epochs"]),
                count_text(time["rows"]),
                time_text(time["seconds"]),
                _range_text(time),
                count_text(rate["vectors_per_s"]),
                f"{rate['repeats']} x {rate['rows']:,}",
                f"x {count_text(time['extrapolated_by'])}",
            )
        )
    devices = settings["num_devices"]
    title = f"{record['data']['name']} on {devices} x {settings['device']}" if devices > 1 else record["data"]["name"]
    header = ("", "vectors", "median", "range", "vectors/s", "measured", "scaled")
    return Grid(title, header, rows)


def _sizes(record: dict[str, Any]) -> Grid:
    disk, memory, shards = record["disk"], record["memory"], record["shards"]
    per_vector = f"{disk['bytes_per_vector']} bytes a vector"
    rows = [("codes", size_text(disk["codes_bytes"]), "")]
    if disk["list_ids_bytes"]:
        rows.append(("list ids", size_text(disk["list_ids_bytes"]), "4 bytes a vector"))
    rows.append(("store of codes", size_text(disk["store_bytes"]), f"{per_vector}, {shards['number']:,} shards"))
    if disk["packed_codes_bytes"] < disk["codes_bytes"]:
        rows.append(("codes, packed=true", size_text(disk["packed_codes_bytes"]), ""))
    file_bytes = disk["vectors_file_bytes"]
    rows.append(
        ("vectors", size_text(disk["vectors_bytes"]), "" if file_bytes is None else f"file: {size_text(file_bytes)}")
    )
    parts = {name: memory[f"{name}_bytes"] for name in ("weights", "tables", "workspace", "blocks")}
    detail = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
    rows.append(("memory of a process", size_text(sum(parts.values())), detail))
    where = "allocated on the GPU" if record["settings"]["device"].startswith("cuda") else "Python and torch included"
    rows.append(("its peak, measured", size_text(memory["measured_peak_bytes"]), where))
    lost = f"at most {time_text(shards['lost_by_a_kill_s'])}"
    rows.append(("a kill costs a process", lost, f"a shard of {shards['rows']:,} vectors"))
    return Grid("disk and memory", ("", "", ""), rows)


def _doublings(record: dict[str, Any]) -> Grid:
    rows = []
    for line in record["doublings"]:
        changes = [line["encode"], line["training"]]
        cells = [cell for change in changes for cell in _change(change)]
        rows.append((line["option"], *cells, line["basis"]))
    header = ("twice the", "encode", "time", "", "training", "time", "", "")
    return Grid("what doubling changes", header, rows)


def _change(change: dict[str, Any] | None) -> tuple[str, str, str]:
    if change is None:
        return ("", "", "")
    # of many rows the numbers would be wider than what they say
    values = f"{change['from']} → {change['to']}" if change["to"] < 100_000 else ""
    return (values, f"x {change['time_ratio']:.2f}", time_text(change["seconds"]))


def rich_tables(record: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables for a terminal."""
    for grid in grids(record):
        table = Table(title=grid.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        table.show_header = any(grid.header)
        for position, name in enumerate(grid.header):
            table.add_column(name, justify="left" if position == 0 else "right", no_wrap=position == 0)
        for row in grid.rows:
            table.add_row(*row)
        yield table


def markdown_report(record: dict[str, Any]) -> str:
    """Return the tables and notes as Markdown text."""
    parts = []
    for grid in grids(record):
        lines = [grid.header, (":--", *["--:"] * (len(grid.header) - 1)), *grid.rows]
        parts.append(f"## {grid.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "# Plan, extrapolated from short measurements\n\n" + "\n\n".join([*parts, notes(record)]) + "\n"


def notes(record: dict[str, Any]) -> str:
    """Return what was measured, what was assumed and what is not counted, a sentence a line."""
    data, model, settings = record["data"], record["model"], record["settings"]
    measured = record["measured"]
    rows = (
        f"the first vectors of {data['measured_on']}"
        if data["measured_on"]
        else f"random {data['dtype']} vectors of dimension {data['dim']} (no file of the set is here)"
    )
    weights = f"the codec {model['codec']}" if model["codec"] else "random weights (rates do not depend on them)"
    sentences = [
        "An extrapolation, no promise: by the median of repeated calls; range: by the fastest and the slowest of them. "
        "vectors/s: of one device. What else the machine does counts in.",
        f"Measured on {rows}, with {weights}; device {settings['device']}, {settings['num_threads']} threads, load "
        f"average {settings['load_average']:.1f} before, precision {settings['precision']}; encoding with "
        f"{_search(settings['search'])}.",
    ]
    sentences += _training_notes(record)
    sentences += [
        f"Assumed: {settings['num_devices']} device(s) like this one without loss between them; time in proportion to "
        "vectors; reading and writing hidden behind encoding.",
        _reading_note(measured, data, settings["num_devices"], record["disk"]),
        "Memory by arithmetic is at most; it does not grow with the number of vectors.",
    ]
    return "\n".join(sentences)


def _training_notes(record: dict[str, Any]) -> list[str]:
    data, training = record["data"], record["measured"]["training"]
    batch = f"batches of {training['batch_size']:,} per device, {_search(record['settings']['training_search'])}"
    if training["rows"] < training["batch_size"]:
        batch += f"; measured in steps of {training['rows']:,}, their fixed part counted once a batch"
    notes = [f"Training: {batch}. Initialisation, validation and checkpoints are not counted."]
    if data["num_train"] is None:
        epoch = f"{data['epoch_size']:,}"
        notes.append(f"How many training vectors there are is not known: an epoch is taken to have {epoch}.")
    return notes


def _reading_note(measured: dict[str, Any], data: dict[str, Any], num_devices: int, disk: dict[str, Any]) -> str:
    rate = measured["encode"]["vectors_per_s"]
    row_bytes = disk["vectors_bytes"] / data["num_rows"]
    needed = f"{size_text(rate * row_bytes * num_devices)}/s"
    if measured["read_vectors_per_s"] is None:
        return f"Reading was not measured: encoding needs {needed} of it."
    read = measured["read_vectors_per_s"]
    return (
        f"Reading: {size_text(read * row_bytes)}/s measured, from the disk or its cache; encoding needs {needed}. More "
        f"than {_three_digits(read / rate)} such devices would wait for it."
    )


def _search(search: dict[str, Any]) -> str:
    if search["candidate_budget"] is not None:
        return f"beam {search['beam_size']}, {search['candidate_budget']} candidates a step"
    return f"beam {search['beam_size']}, {search['num_candidates'] or 'all'} candidates per hypothesis"
