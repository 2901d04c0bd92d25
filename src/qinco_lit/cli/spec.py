"""One spec per job: the function that does it, whose signature says what may be typed, and what of it no user types."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from qinco_lit.cli import hydra_adapter
from qinco_lit.cli.tracking import describe_run
from qinco_lit.options import check_arguments

# What gives a parameter its value: of the job's config, in plain values, and the folder of the run.
Supply = Callable[[dict[str, Any], Path], Any]


def _nothing(_: Mapping[str, Any]) -> None:
    pass


@dataclass(frozen=True)
class Job:
    """A Hydra command: `check` raises ValueError for options that cannot work, `run` does the work."""

    summary: str
    check: Callable[[dict[str, Any]], None]
    run: Callable[[dict[str, Any], Path], float | None]


@dataclass(frozen=True)
class Spec:
    """Of a job. Its options are the parameters of a function, with their types and ranges, unless said here.

    Attributes:
        summary: a line for the overview.
        function: `module:name` of what does the work; imported when it is asked for.
        supplied: parameters that the program gives; None: it gives them to `call`, or leaves them as they are.
        named: options whose parameter has another name.
        typed: types of options that no parameter receives, or of which Python may give more kinds than can be typed.
        groups: of the config, with what checks each; one that is a parameter, too, is passed on.
        required: options without which there is nothing to do, and the line for who leaves one out.
        either: two options of which one must be given, and the line for who gives none or both.
        also: refuses what else can be refused before there is a folder.
    """

    summary: str
    function: str
    supplied: Mapping[str, Supply | None] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    typed: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Callable[[Mapping[str, Any]], None]] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)
    either: tuple[tuple[str, str, str], ...] = ()
    also: Callable[[Mapping[str, Any]], None] = _nothing

    def job(self) -> Job:
        """What the command line knows of it."""
        return Job(self.summary, self.check, self.run)

    def check(self, config: Mapping[str, Any]) -> None:
        """Check the options (plain nested values) against what will receive them. Raises ValueError."""
        for option, line in self.required.items():
            if config.get(option) is None:
                raise ValueError(line)
        for one, other, line in self.either:
            if (config.get(one) is None) == (config.get(other) is None):
                raise ValueError(line)
        function, hints = self._imported()
        options = {name: value for name, value in config.items() if name not in self.groups}
        given = {*self.supplied, *self.named.values(), *self.groups}
        extra = {option: hints[name] for option, name in self.named.items()}
        check_arguments("", function, options, given=given, extra={**extra, **self.typed})
        for name, check in self.groups.items():
            if config.get(name) is not None:
                check(config[name])
        self.also(config)

    def run(self, config: dict[str, Any], run_dir: Path) -> float | None:
        """Do the work; what a sweep minimizes, if anything."""
        value = self.call(config, run_dir)
        return value if isinstance(value, float) else None

    def call(self, config: dict[str, Any], run_dir: Path, **given: Any) -> Any:
        """Call the function with a checked config; `given` are parameters instead of those that are supplied."""
        if "logger" in config:
            from hydra.core.hydra_config import HydraConfig

            describe_run(config, HydraConfig.get(), run_dir)
        function, hints = self._imported()
        others = {*self.supplied, *given}
        typed = {self.named.get(option, option): value for option, value in config.items()}
        options = {
            name: _converted(value, hints[name])
            for name, value in typed.items()
            if name in hints and name not in others
        }
        for name, make in self.supplied.items():
            if make is not None and name not in given:
                options[name] = make(config, run_dir)
        return function(**options, **given)

    def _imported(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The function, and the annotations of its parameters."""
        module, _, name = self.function.partition(":")
        function = getattr(import_module(module), name)
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
        return function, {name: hints.get(name, Any) for name in inspect.signature(function).parameters}


def _converted(value: Any, annotation: Any) -> Any:
    """Text that is annotated as a path, as one."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(annotation) if is_union else (annotation,)
    return Path(value) if isinstance(value, str) and Path in kinds and str not in kinds else value


# --- what jobs are supplied with ------------------------------------------------------------------------------------


def data_module(config: dict[str, Any], run_dir: Path, **options: str) -> Any:  # noqa: ARG001 (a Supply)
    """The data module of `data=`; `options`: its arguments that are other options of the job, by their dotted names."""
    from qinco_lit.data import data_module as modules

    arguments = {name: option_of(config, dotted) for name, dotted in options.items()}
    return modules.data_module(config["data"], **arguments)


def option_of(config: Mapping[str, Any], dotted: str) -> Any:
    """The value of a dotted name; None where a group lacks it, or is null."""
    level: Any = config
    for part in dotted.split("."):
        level = None if level is None else level.get(part)
    return level


def option(dotted: str, kind: Callable[[Any], Any] | None = None) -> Supply:
    """Supplies an option of a group, as that kind where it is not null."""

    def supply(config: dict[str, Any], run_dir: Path) -> Any:  # noqa: ARG001 (a Supply)
        value = option_of(config, dotted)
        return value if kind is None or value is None else kind(value)

    return supply


def rows(stage: str, name: str) -> Supply:
    """Supplies the rows of `input=`, or those of this name of `data=`, opened for a stage of Lightning's."""

    def supply(config: dict[str, Any], run_dir: Path) -> Any:
        from qinco_lit.vectors import open_vectors

        if config["input"] is not None:
            return open_vectors(config["input"])
        return getattr(opened_data(config, run_dir, stage), name)

    return supply


def opened_data(config: dict[str, Any], run_dir: Path, stage: str) -> Any:
    """The data module, with its files there and open."""
    data = data_module(config, run_dir)
    data.prepare_data()
    data.setup(stage)
    return data


def data_facts(config: dict[str, Any], run_dir: Path) -> Any:
    """What is known of the data: from `describe` next to the data set's `_target_`, or from its files."""
    from qinco_lit.planning.plan import facts_of_file, facts_of_module
    from qinco_lit.vectors import open_vectors

    if config["input"] is not None:
        return facts_of_file(open_vectors(config["input"]))
    options = {name: value for name, value in config["data"].items() if not name.startswith("_")}
    module = import_module(str(config["data"]["_target_"]).rpartition(".")[0])
    if hasattr(module, "describe"):
        return module.describe(**options)
    return facts_of_module(opened_data(config, run_dir, "predict"))


def missing_data(data_dir: str, options: Sequence[str]) -> str | None:
    """How to get a data set that is not there, in one line; None where it is, or makes itself. Raises ValueError.

    Asks `missing_files` next to the data set's `_target_`, where there is one.

    Args:
        data_dir: where data sets lie.
        options: of every command on the data set: `data=bigann`, `data.size=1B`.
    """
    data = hydra_adapter.data_config([*options, f'data_dir="{data_dir}"'])
    module = import_module(str(data.pop("_target_")).rpartition(".")[0])
    missing: str | None = module.missing_files(**data) if hasattr(module, "missing_files") else None
    return missing
