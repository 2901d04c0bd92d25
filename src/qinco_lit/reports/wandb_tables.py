"""What `evaluate` and `search` send to W&B: their results as tables and as summaries."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qinco_lit.metrics import RECALL_AT
from qinco_lit.reports.search import point_rows

Record = dict[str, Any]
_RECALLS = tuple(f"recall_at_{k}" for k in RECALL_AT)
_FIGURES = ("bytes_per_vector", "mse", *_RECALLS, "encode_vectors_per_s", "decode_vectors_per_s")


@contextmanager
def track(
    output_dir: Path, logger: Mapping[str, Any] | None, config: Mapping[str, Any], send: Callable[[Any, Record], None]
) -> Iterator[Callable[[Record], None]]:
    """Open a W&B run for the block, which gives its record to what this yields; without a logger nothing happens.

    `send` is a function of this file. A block that raises is a failed run, unless it was interrupted.

    Raises:
        ValueError: W&B refuses, for instance online without a login.
    """
    if logger is None:
        yield lambda _: None
        return
    from qinco_lit.training.wandb_run import finish_wandb, start_wandb

    options = {name: value for name, value in logger.items() if name != "log_codec"}  # checked: there is no codec
    output_dir.mkdir(parents=True, exist_ok=True)
    run = start_wandb(output_dir, config=config, **options)
    state = "failed"
    try:
        yield lambda record: send(run.experiment, record)
        state = "finished"
    except (KeyboardInterrupt, SystemExit):
        state = "interrupted"
        raise
    finally:
        finish_wandb([run], state=state)


def send_search(run: Any, record: Record) -> None:
    """The points and the fronts as tables, and the speed near the best recall of each engine as summary."""
    import wandb

    header, rows = point_rows(record)
    on_front = [row for row in rows if any(row[header.index(f"front_{k}")] for k in record["settings"]["recall_at"])]
    tables = {"search/points": rows, "search/fronts": on_front}
    run.log({name: wandb.Table(columns=[*header], data=data) for name, data in tables.items()})
    for name, engine in record["engines"].items():
        for k, place in engine["within_a_point_of_the_best"].items():
            speed = engine["points"][place]["queries_per_s"]
            run.summary[f"search/{name}/queries_per_s_near_best_recall_at_{k}"] = speed
            run.summary[f"search/{name}/recall_at_{k}"] = engine["points"][engine["best"][k]][f"recall_at_{k}"]


def send_evaluation(run: Any, record: Record) -> None:
    """Rate–distortion, the methods' figures and those of rates as tables; the methods' at the full rate as summary."""
    import wandb

    curves, rows = [], []
    for name, method in record["methods"].items():
        mse_per_step = method["mse_per_step"] or [None] * (method["num_steps"] - 1) + [method["mse"]]
        for step, mse in enumerate(mse_per_step, start=1):
            if mse is not None:
                curves.append([name, step, method["bytes_per_vector"] * step / method["num_steps"], mse])
        rows.append([name, *(method[figure] for figure in _FIGURES)])
        for figure in _FIGURES:
            if method[figure] is not None:
                run.summary[f"evaluate/{name}/{figure}"] = method[figure]
    tables = {
        "evaluate/rate_distortion": wandb.Table(
            columns=["method", "num_codes", "bytes_per_vector", "mse"], data=curves
        ),
        "evaluate/methods": wandb.Table(columns=["method", *_FIGURES], data=rows),
    }
    if record["rates"] is not None:
        tables["evaluate/rates"] = wandb.Table(
            columns=["found_by", "num_codes", *_FIGURES], data=list(_rate_rows(record))
        )
    run.log(tables)


def _rate_rows(record: Record) -> Iterator[list[Any]]:
    """A row for each rate and way to its codes; a prefix's speed is that of the search for all codes."""
    whole = record["methods"]["codec"]
    for point in record["rates"]["points"]:
        speeds = {
            name: each[f"{name}_vectors_per_s"] for name, each in (("encode", whole), ("decode", point["encoded"]))
        }
        found = {"prefix": point["prefix"], "encoded": point["encoded"], "dedicated": point["dedicated"]}
        for kind, figures in found.items():
            if figures is not None:
                shared = {"bytes_per_vector": point["bytes_per_vector"]}
                shared |= {f"{name}_vectors_per_s": speed for name, speed in speeds.items()}
                row = {**shared, **figures}
                yield [kind, point["num_steps"], *(row[figure] for figure in _FIGURES)]
