"""The rows of a comparison, from what lies in one folder."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from qinco_lit.reports.compare.records import Curve, Recorded, Training, finite, flat
from qinco_lit.reports.kit.texts import method_label, model_label
from qinco_lit.reports.search import engine_label

_SEARCH_OF_CODES = ("num_steps", "beam_size", "num_candidates", "candidate_budget", "precision")
# Beyond any model; powers of any number would take for ever.
_MAX_STEPS, _MAX_CODEBOOK_SIZE = 2**12, 2**32
_MEASURED = (
    "mse", "recall_at_1", "recall_at_10", "recall_at_100", "bytes_per_vector", "encode_vectors_per_s",
    "decode_vectors_per_s",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """A row: a codec, a baseline or an index that was searched; each is equal to itself only.

    `options` by dotted name: of the training as in its config.json, of evaluation and search below `evaluate.` and
    `search.`; `results` by the names of `metrics.METRICS`, finite numbers only.
    """

    name: str
    kind: Literal["codec", "baseline", "search"]
    method: str
    """For readers: QINCo2, OPQ, IVF-RQ (8+1 B)."""
    data: str
    folder: Path
    state: str
    results: dict[str, float]
    options: dict[str, Any] = field(default_factory=dict)
    typed: frozenset[str] = frozenset()
    choices: dict[str, str] = field(default_factory=dict)
    curve: Curve = field(default_factory=Curve)
    rates: tuple[tuple[float, float], ...] = ()
    """(bytes per vector, MSE) of the prefixes of its codes, on the database or, not evaluated, in validation."""
    evaluated: bool = False
    fronts: dict[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """Of a search, by k: (queries per second, recall at k) along the Pareto front, slowest first."""


def training_row(training: Training) -> Run:
    """Return the row of a run that was not evaluated."""
    summary, options = training.summary, training.options
    num_bytes = _code_bytes(options.get("model.num_steps"), options.get("model.codebook_size"))
    results = _training_results(training)
    rates: tuple[tuple[float, float], ...] = ()
    if num_bytes is not None:
        results["bytes_per_vector"] = num_bytes
        rates = _rates(training.mse_per_step, num_bytes)
    return Run(
        name="", kind="codec", method=_model(options), data=_data_name(training),
        folder=training.folder, state=str(summary.get("state", "unknown")), results=results, options=_options(training),
        typed=training.typed, choices=training.choices, curve=training.curve, rates=rates,
    )  # fmt: skip


def evaluation_rows(evaluation: Recorded, training: Training | None) -> list[Run]:
    """Return the rows of an evaluation: first its codec, with what is known of its training, then the baselines.

    Raises:
        KeyError, TypeError, ...: a record of another form.
    """
    record = evaluation.record
    codec, data = record["codec"], record["data"]
    name = str(data["name"])
    circumstances = {
        **{f"evaluate.{each}": data[each] for each in ("num_database", "num_queries", "metric") if each in data},
        **{f"evaluate.{each}": path for each, path in _typed_files(record).items()},
        "evaluate.data": name,
        "evaluate.device": record.get("device"),
        "evaluate.threads": record.get("num_threads", {}).get("torch"),
        "evaluate.processor": record.get("hardware", {}).get("processor"),
    }
    # records of schema 1 to 3 are of all codes, and do not say so
    told = {**{name: value for name, value in codec["model"].items() if name == "num_steps"}, **codec}
    settings = {f"evaluate.{each}": told[each] for each in _SEARCH_OF_CODES if each in told}
    if training is None:
        model = {f"model.{each}": value for each, value in codec["model"].items()}
        own = Run("", "codec", "", name, evaluation.folder, "evaluated", {}, {"data": name} | model)
    else:
        own = training_row(training)
    rows = [
        replace(
            own, method=method_label(record, "codec"), data=name, folder=evaluation.folder, evaluated=True,
            results=own.results | _measured(record["methods"]["codec"]), options=own.options | settings | circumstances,
            rates=_measured_rates(record["methods"]["codec"]),
        )
    ]  # fmt: skip
    # what tells data sets apart
    shared: dict[str, Any] = {"data": name}
    shared |= {each: own.options[each] for each in ("data.size", "data.train", "data.database") if each in own.options}
    for method, figures in record["methods"].items():
        if method != "codec":
            label = method_label(record, method)
            rows.append(
                Run(
                    f"{label}, {figures['bytes_per_vector']:g} bytes", "baseline", label, name, evaluation.folder,
                    "evaluated", _measured(figures), shared | circumstances,
                    rates=_measured_rates(figures), evaluated=True,
                )
            )  # fmt: skip
    return rows


def _typed_files(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the user's own files of an evaluation, which its record names in its command only."""
    try:
        words = shlex.split(str(record.get("command", "")))
    except ValueError:  # a quotation mark without its partner
        words = []
    typed = dict(word.partition("=")[::2] for word in words if word.startswith(("data.train=", "data.database=")))
    return {name.partition(".")[2]: path for name, path in typed.items()}


def search_rows(search: Recorded) -> list[Run]:
    """Return a row for each engine of a search. Raises KeyError, TypeError, ...: a record of another form."""
    record = search.record
    index, data = record["index"], record["data"]
    settings = {**record["settings"], "threads": record["num_threads"]["faiss"]}
    settings |= {"num_lists": index["num_lists"], "processor": record["hardware"]["processor"]}
    settings |= {name: data[name] for name in ("num_database", "num_queries", "metric")}
    shared = flat({"search": settings}) | {"data": data["name"]}
    rows = []
    for name, engine in record["engines"].items():
        is_ours = name == "qinco"
        rows.append(
            Run(
                name="", kind="search", data=str(data["name"]), folder=search.folder, state="searched",
                method=engine_label(record, name),
                results=_searched(engine, record["settings"]["recall_at"]),
                options=shared | (flat({"model": index["model"]}) if is_ours else {}),
                fronts={int(k): _front(engine, int(k)) for k in record["settings"]["recall_at"]},
            )
        )  # fmt: skip
    return rows


def _training_results(training: Training) -> dict[str, float]:
    """Of a run that has not ended, or was killed, its curve says how far it is."""
    curve = training.curve
    so_far = {"best_val_mse": min(curve.mse), "epochs": curve.epochs[-1]} if curve.mse else {}
    names = ("best_val_mse", "epochs", "parameters", "wall_s")
    known = {name: float(training.summary[name]) for name in names if finite(training.summary.get(name))}
    return {name: value for name, value in so_far.items() if finite(value)} | known


def _measured(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(figures[name]) for name in _MEASURED if finite(figures.get(name))}


def _searched(engine: Mapping[str, Any], recall_at: list[int]) -> dict[str, float]:
    """Best recalls, and the speed of the fastest point within a point of the best at the first k."""
    points = engine["points"]
    near = points[engine["within_a_point_of_the_best"][str(recall_at[0])]]
    recalls = {f"recall_at_{k}": points[engine["best"][str(k)]][f"recall_at_{k}"] for k in recall_at}
    results = {
        **recalls,
        "queries_per_s": near["queries_per_s"],
        "latency_median_s": near["latency_median_s"],
        "bytes_per_vector": sum(engine["bytes_per_vector"].values()),
    }
    return {name: float(value) for name, value in results.items() if finite(value)}


def _front(engine: Mapping[str, Any], k: int) -> tuple[tuple[float, float], ...]:
    points = [engine["points"][place] for place in engine["fronts"][str(k)]]
    front = [(float(point["queries_per_s"]), float(point[f"recall_at_{k}"])) for point in points]
    return tuple(sorted(point for point in front if all(map(finite, point))))


def _options(training: Training) -> dict[str, Any]:
    # runs from before there were lists had none
    coarse = "ivf" if any(name.startswith("coarse.") for name in training.options) else "none"
    own = {"coarse": coarse, **training.choices, "data": _data_name(training)}
    return {**training.options, **own, "git_revision": training.summary.get("git_revision")}


def _data_name(training: Training) -> str:
    """What the data set is called, as `evaluate` calls it where that is known."""
    name = training.options.get("data.name") or training.choices.get("data")
    if name is None:
        parts = str(training.options.get("data._target_", "unknown")).split(".")
        name = parts[-2] if len(parts) > 1 else parts[-1]
    return str(name)


def _model(options: Mapping[str, Any]) -> str:
    model = {name.partition(".")[2]: value for name, value in options.items() if name.startswith("model.")}
    return model_label(model) if isinstance(model.get("outer_skip"), bool) else "codec"


def _code_bytes(num_steps: Any, codebook_size: Any) -> float | None:
    if not (isinstance(num_steps, int) and isinstance(codebook_size, int)):
        return None
    if not (0 < num_steps <= _MAX_STEPS and 0 < codebook_size <= _MAX_CODEBOOK_SIZE):
        return None
    return float(int(codebook_size**num_steps - 1).bit_length()) / 8  # as Codec.bits_per_vector


def _measured_rates(figures: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    return _rates(figures["mse_per_step"] or [figures["mse"]], float(figures["bytes_per_vector"]))


def _rates(mse_per_step: Any, num_bytes: float) -> tuple[tuple[float, float], ...]:
    steps = [(num_bytes * step / len(mse_per_step), error) for step, error in enumerate(mse_per_step, 1)]
    return tuple((rate, float(error)) for rate, error in steps if finite(rate) and finite(error))
