"""A plan as tables and sentences, for the terminal and for a file."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from qinco_lit.reports.kit.tables import Grid
from qinco_lit.reports.kit.texts import count_text, range_text, search_text, size_text, three_digits, time_text

MAX_VARIATION = 0.2  # of repeated calls
_WORK = {"encode": "encode", "decode": "decode", "epoch": "train, 1 epoch", "training": "train, {} epochs"}


def grids(record: Mapping[str, Any]) -> Iterator[Grid]:
    """Yield the tables of a record of `plan`."""
    yield _times(record)
    yield _sizes(record)
    yield _doublings(record)


def _times(record: Mapping[str, Any]) -> Grid:
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
                range_text(time["at_least_s"], time["at_most_s"], time["seconds"]),
                count_text(rate["vectors_per_s"]),
                f"{rate['repeats']} x {rate['rows']:,}",
                f"x {count_text(time['extrapolated_by'])}",
            )
        )
    devices = settings["num_devices"]
    title = f"{record['data']['name']} on {devices} x {settings['device']}" if devices > 1 else record["data"]["name"]
    header = ("", "vectors", "median", "range", "vectors/s", "measured", "scaled")
    return Grid(header, rows, title)


def _sizes(record: Mapping[str, Any]) -> Grid:
    disk, memory, shards = record["disk"], record["memory"], record["shards"]
    per_vector = f"{disk['bytes_per_vector']} bytes a vector"
    rows = [("codes", size_text(disk["codes_bytes"]), "")]
    if disk["list_ids_bytes"]:
        rows.append(("list ids", size_text(disk["list_ids_bytes"]), "4 bytes a vector"))
    rows.append(("store of codes", size_text(disk["store_bytes"]), f"{per_vector}, {shards['number']:,} shards"))
    if disk["packed_codes_bytes"] < disk["codes_bytes"]:
        rows.append(("codes, packed=true", size_text(disk["packed_codes_bytes"]), ""))
    rows.append(("vectors", size_text(disk["vectors_bytes"]), ""))
    if disk["vectors_file_bytes"] is not None:
        rows.append(("their file", size_text(disk["vectors_file_bytes"]), ""))
    parts = {name: memory[f"{name}_bytes"] for name in ("weights", "tables", "workspace", "blocks")}
    detail = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
    rows.append(("memory of a process", size_text(sum(parts.values())), detail))
    where = "allocated on the GPU" if record["settings"]["device"].startswith("cuda") else "Python and torch included"
    rows.append(("its peak, measured", size_text(memory["measured_peak_bytes"]), where))
    lost = f"at most {time_text(shards['lost_by_a_kill_s'])}"
    rows.append(("a kill costs a process", lost, f"a shard of {shards['rows']:,} vectors"))
    return Grid(("", "", ""), rows, "disk and memory")


def _doublings(record: Mapping[str, Any]) -> Grid:
    rows = []
    for line in record["doublings"]:
        changes = [line["encode"], line["training"]]
        cells = [cell for change in changes for cell in _change(change)]
        rows.append((line["option"], *cells, line["basis"]))
    header = ("twice the", "encode", "time", "", "training", "time", "", "")
    return Grid(header, rows, "what doubling changes")


def _change(change: dict[str, Any] | None) -> tuple[str, str, str]:
    if change is None:
        return ("", "", "")
    # of many rows the numbers would be wider than what they say
    values = f"{change['from']} → {change['to']}" if change["to"] < 100_000 else ""
    return (values, f"x {change['time_ratio']:.2f}", time_text(change["seconds"]))


def rich_tables(record: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the tables for a terminal."""
    for grid in grids(record):
        yield grid.rich(wrap=True)


def markdown_report(record: Mapping[str, Any]) -> str:
    """Return the tables and notes as Markdown text."""
    parts = [f"## {grid.title}\n\n{grid.markdown()}" for grid in grids(record)]
    warning = variation_warning(record)
    parts += [notes(record)] if warning is None else [f"**{warning}**", notes(record)]
    return "# Plan, extrapolated from short measurements\n\n" + "\n\n".join(parts) + "\n"


def notes(record: Mapping[str, Any]) -> str:
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
        _load_note(record["load"]),
        f"Measured on {rows}, with {weights}; device {settings['device']}, {settings['num_threads']} threads, "
        f"precision {settings['precision']}; encoding with {search_text(settings['search'])}.",
    ]
    sentences += _training_notes(record)
    sentences += [
        f"Assumed: {settings['num_devices']} device(s) like this one without loss between them; time in proportion to "
        "vectors; reading and writing hidden behind encoding.",
        _reading_note(measured, data, settings["num_devices"], record["disk"]),
        "Memory by arithmetic is at most; it does not grow with the number of vectors.",
    ]
    return "\n".join(sentences)


def _load_note(load: Mapping[str, Any]) -> str:
    before = f"The load average before was {load['average']:.1f}"
    if load["other_cores"] is None:
        return f"{before}; what other processes did meanwhile is not known here."
    cores = f"{load['num_cores']} cores" if load["num_cores"] > 1 else "1 core"
    return f"{before}; while it was measured, other processes kept {load['other_cores']:.1f} of {cores} busy."


def variation_warning(record: Mapping[str, Any]) -> str | None:
    """Return one line where repeated calls differ by more than a plan can be trusted with; None: they do not."""
    varied = {work: share for work, share in record["load"]["variation"].items() if share > MAX_VARIATION}
    if not varied:
        return None
    shares = ", ".join(f"{work} by {100 * share:.0f} %" for work, share in varied.items())
    return (
        f"Repeated calls vary by over {100 * MAX_VARIATION:.0f} % ({shares}): the times above hold for a machine as "
        "busy as now; plan again when it is quiet, or with more seconds=."
    )


def _training_notes(record: Mapping[str, Any]) -> list[str]:
    data, training = record["data"], record["measured"]["training"]
    batch = f"batches of {training['batch_size']:,} per device, {search_text(record['settings']['training_search'])}"
    if training["rows"] < training["batch_size"]:
        batch += f"; measured in steps of {training['rows']:,}, their fixed part counted once a batch"
    notes = [f"Training: {batch}. Initialisation, validation and checkpoints are not counted."]
    if data["num_train"] is None:
        epoch = f"{data['epoch_size']:,}"
        notes.append(f"How many training vectors there are is not known: an epoch is taken to have {epoch}.")
    return notes


def _reading_note(measured: dict[str, Any], data: dict[str, Any], num_devices: int, disk: dict[str, Any]) -> str:
    rate = measured["encode"]["vectors_per_s"]
    row_bytes = (disk["vectors_file_bytes"] or disk["vectors_bytes"]) / data["num_rows"]
    needed = f"{size_text(rate * row_bytes * num_devices)}/s"
    if measured["read_vectors_per_s"] is None:
        return f"Reading was not measured: encoding needs {needed} of it."
    read = measured["read_vectors_per_s"]
    return (
        f"Reading: {size_text(read * row_bytes)}/s measured, from the disk or its cache; encoding needs {needed}. More "
        f"than {three_digits(read / rate)} such devices would wait for it."
    )
