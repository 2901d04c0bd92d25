"""What a scale says (conf/scale/*.yaml): data sets, methods and experiments, as typed values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qinco_lit.options import check_arguments, unknown

SECTIONS = ("main", "run_time", "ablation", "dynamic_rate", "speed", "pairwise", "search")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set: `options` of every command on it; `relative_cost`, of a vector, to what the seconds are for."""

    options: Sequence[str]
    relative_cost: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A model and how it is trained and measured; its key in the scale is the name of its folders.

    Attributes:
        name: in the report.
        train: options of `qinco train`.
        evaluate: options of `qinco evaluate`: the search that the tables are of.
        train_s, evaluate_s: estimates of a run at 8 bytes.
        train_on: further options of `qinco train` on single data sets.
    """

    name: str
    train: Sequence[str]
    train_s: float
    evaluate: Sequence[str] = ()
    evaluate_s: float = 10.0
    train_on: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MainSpec:
    """The main table: methods at every rate next to baselines, which the first method's first seed brings along."""

    datasets: Sequence[str]
    methods: Sequence[str]
    num_bytes: Sequence[int]
    baselines: Sequence[str] = ()
    baselines_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunTimeSpec:
    """Error against encoding time: trained codecs, evaluated with other searches. A point holds options and values."""

    datasets: Sequence[str]
    methods: Sequence[str]
    num_bytes: Sequence[int]
    points: Sequence[Mapping[str, int | None]]
    options: Sequence[str] = ()
    evaluate_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """One ingredient left out: its name in the report, options of `qinco train`, its cost relative to all of them."""

    name: str
    options: Sequence[str]
    relative_cost: float = 1.0


@dataclass(frozen=True, kw_only=True)
class AblationSpec:
    """The model of `train`, and the same with the options of one entry of `without`.

    Attributes:
        without: by folder name.
        evaluate: options of `qinco evaluate` of each; None: the validation error of training is all.
    """

    datasets: Sequence[str]
    num_bytes: Sequence[int]
    train: Sequence[str]
    train_s: float
    without: Mapping[str, VariantSpec]
    evaluate: Sequence[str] | None = None
    evaluate_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """Large-scale search: centroids, an IVF model, codes, an index, operating points.

    Attributes:
        train, encode, index, search: options of these commands; `train` in addition to the method's.
        *_s: estimates at 8 bytes; training is the method's.
    """

    datasets: Sequence[str]
    methods: Sequence[str]
    num_bytes: Sequence[int]
    num_lists: int
    centroids: Sequence[str] = ()
    train: Sequence[str] = ()
    encode: Sequence[str] = ()
    index: Sequence[str] = ()
    search: Sequence[str] = ()
    centroids_s: float = 10.0
    encode_s: float = 10.0
    index_s: float = 10.0
    search_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Everything that a scale runs; sections that are None are left out.

    Attributes:
        hardware: that the estimates of time are for.
        seeds: of every training; the first is that of the studies of a trained codec.
        repeat_below_s: a training that is estimated to take this long or longer has the first seed only; None: all.
    """

    hardware: str
    seeds: Sequence[int]
    datasets: Mapping[str, DatasetSpec]
    methods: Mapping[str, MethodSpec]
    main: MainSpec | None = None
    run_time: RunTimeSpec | None = None
    ablation: AblationSpec | None = None
    search: SearchSpec | None = None
    repeat_below_s: float | None = None

    def seeds_of(self, train_s: float) -> Sequence[int]:
        """Seeds of a training that is estimated to take `train_s` seconds."""
        return self.seeds if self.repeat_below_s is None or train_s < self.repeat_below_s else self.seeds[:1]


_KINDS: dict[str, Any] = {"main": MainSpec, "run_time": RunTimeSpec, "ablation": AblationSpec, "search": SearchSpec}

Spec = TypeVar("Spec")


def read_scale(values: Mapping[str, Any]) -> Scale:
    """Return a scale of plain nested values, as a config file holds them.

    Raises:
        ValueError: one line, for an unknown or missing name, a value of another type, an experiment on a data set or
            method that the scale does not describe.
    """
    check_arguments("scale", Scale, values)
    scale = Scale(
        hardware=values["hardware"],
        seeds=values["seeds"],
        repeat_below_s=values.get("repeat_below_s"),
        datasets=_read_all("scale.datasets", DatasetSpec, values["datasets"]),
        methods=_read_all("scale.methods", MethodSpec, values["methods"]),
        **{name: _read(f"scale.{name}", kind, values[name]) for name, kind in _KINDS.items() if values.get(name)},
    )
    if not scale.seeds:
        raise ValueError("scale.seeds=[]: give at least one")
    _check_references(scale)
    return scale


def _read(name: str, kind: type[Spec], values: Mapping[str, Any]) -> Spec:
    check_arguments(name, kind, values)
    nested: dict[str, Any] = {}
    if kind is AblationSpec:
        nested["without"] = _read_all(f"{name}.without", VariantSpec, values["without"])
    return kind(**{**values, **nested})


def _read_all(name: str, kind: type[Spec], values: Mapping[str, Any]) -> dict[str, Spec]:
    return {key: _read(f"{name}.{key}", kind, one) for key, one in values.items()}


def _check_references(scale: Scale) -> None:
    for name in _KINDS:
        section = getattr(scale, name)
        if section is None:
            continue
        known: dict[str, Collection[str]] = {"datasets": scale.datasets, "methods": scale.methods}
        for group, choices in known.items():
            for one in getattr(section, group, ()):
                if one not in choices:
                    raise unknown(f"choice of scale.{name}.{group}:", one, choices)
