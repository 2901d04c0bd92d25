"""What Hydra offers no other way to than its internals, and its words for values that it cannot read, in ours.

Everything that is imported from `hydra._internal` is imported here; hydra.main is no help, as it makes the run folder
before anything can be checked.
"""

import argparse
import contextlib
import copy
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qinco_lit.cli.help_text import folded
from qinco_lit.mistakes import in_one_line

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra as Hydra
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

CONFIG_PATH = "pkg://qinco_lit.conf"


def raise_mistake(parser: argparse.ArgumentParser, message: str) -> NoReturn:  # noqa: ARG001 (takes a parser's place)
    """What a parser does with arguments it cannot use: raise ValueError."""
    raise ValueError(message)


def parser() -> argparse.ArgumentParser:
    """Hydra's parser of a command line, that raises ValueError. Also sets Hydra up for `opened` and `run`."""
    from hydra import version
    from hydra._internal.utils import get_args_parser
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    version.setbase("1.3")
    OmegaConf.register_new_resolver(
        "qinco_choices", lambda group: ", ".join(GlobalHydra.instance().config_loader().get_group_options(group)),
        replace=True,
    )  # fmt: skip
    made: argparse.ArgumentParser = get_args_parser()
    made.error = raise_mistake.__get__(made)  # type: ignore[method-assign]
    return made


def run(
    name: str,
    args: argparse.Namespace,
    parser: argparse.ArgumentParser,
    task: "Callable[[DictConfig], float | None]",
    composed: "DictConfig | None",
) -> None:
    """Let Hydra run a task, one or many times, as hydra.main does; sys.argv stays what DDP re-runs.

    Args:
        name: of the command.
        args: its command line.
        parser: of that.
        task: gets the config of a run.
        composed: the config of the command line but for overrides of Hydra's own settings that came after it; None: it
            asks for Hydra's help.
    """
    from hydra._internal.utils import _run_app, _run_hydra, run_and_report
    from hydra.types import RunMode

    asked = (args.run, args.multirun, args.cfg, args.info, args.shell_completion)
    if composed is None or (not args.help and (args.info or sum(map(bool, asked)) > 1)):
        _run_hydra(args=args, args_parser=parser, task_function=task, config_path=CONFIG_PATH, config_name=name)
        return
    # _run_hydra would compose the config another time, only to learn its mode, and copy its sources for every group
    with opened(name, args) as hydra:
        mode, config_name = composed.hydra.mode, args.config_name or name
        if args.help or args.cfg:
            _compose_no_more(hydra, composed)
            if args.help:
                with contextlib.redirect_stdout(io.StringIO()) as said:
                    hydra.app_help(config_name, parser, args)
                sys.stdout.write(folded(said.getvalue(), shutil.get_terminal_size().columns))
                return
            shown = {"cfg_type": args.cfg, "package": args.package, "resolve": args.resolve}
            run_and_report(lambda: hydra.show_cfg(config_name, args.overrides, **shown))
            return
        if not args.multirun and mode != RunMode.MULTIRUN:
            _compose_no_more(hydra, composed)
        _run_app(args.run or not args.multirun, args.multirun, mode, hydra, config_name, task, args.overrides)


def _compose_no_more(hydra: "Hydra", composed: "DictConfig") -> None:
    """Let Hydra run what was composed, with the overrides of its own settings that have been added since."""
    from omegaconf import OmegaConf

    known = composed.hydra.overrides

    def load_configuration(config_name: str, overrides: list[str], **options: Any) -> "DictConfig":
        del hydra.config_loader.load_configuration  # the job may compose others
        added = parsed(hydra, overrides[len(known.hydra) + len(known.task) :])
        if any(not each.is_hydra_override() or "/" in each.key_or_group for each in added):
            return hydra.config_loader.load_configuration(config_name, overrides, **options)
        OmegaConf.set_readonly(composed.hydra, False)
        type(hydra.config_loader)._apply_overrides_to_config(added, composed)  # type: ignore[attr-defined]
        known.hydra.extend([each.input_line for each in added])
        return composed

    hydra.config_loader.load_configuration = load_configuration  # type: ignore[method-assign, assignment]


@contextlib.contextmanager
def opened(name: str, args: argparse.Namespace) -> "Iterator[Hydra]":
    """Hydra on our configs and those of `-cd`, for the block. Raises ValueError: no such folder."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    search_path = create_config_search_path(args.config_path or CONFIG_PATH)
    if args.config_dir is not None:
        folder = Path(args.config_dir).absolute()
        if not folder.is_dir():
            raise ValueError(f"-cd {args.config_dir}: no such folder")
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    try:
        hydra = Hydra.create_main_hydra2(name, search_path)
        # Hydra copies it, with all that its plugins have registered, for every composition and every question; of a
        # copy only the list of sources is ever replaced
        repository: Any = vars(hydra.config_loader)["repository"]
        repository.__deepcopy__ = lambda _: copy.copy(repository)
        yield hydra
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


def parsed(hydra: "Hydra", overrides: list[str]) -> "list[Override]":
    """Overrides as Hydra reads them. Raises HydraException."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(overrides)


def compose(hydra: "Hydra", config_name: str, overrides: list[str]) -> "DictConfig":
    """The whole config of one run, for `plain`. Raises HydraException."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config = hydra.compose_config(config_name, overrides, RunMode.RUN)
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in values
    return config


def plain(config: "DictConfig") -> dict[str, Any]:
    """A config without Hydra's own settings, in plain values."""
    from omegaconf import OmegaConf

    job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    values = OmegaConf.to_container(job, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def split_jobs(overrides: "list[Override]") -> list[list[str]]:
    """The overrides of every job of a sweep of Hydra's basic sweeper, in the order of their numbers."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper.split_arguments(overrides, None)[0]


def data_config(options: list[str]) -> dict[str, Any]:
    """The data set that options of a command choose, within a job that runs. Raises HydraException."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    config = GlobalHydra.instance().config_loader().load_configuration("evaluate", options, RunMode.RUN)
    values = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


# --- values that Hydra cannot read as they were typed: how to quote them, for Hydra and for the shell ----------------


def quoted(value: str) -> str:
    """A value as Hydra reads it, whatever its characters."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value.replace("${", r"\${"), Quote.double).with_quotes()


def _unreadable(override: str) -> ValueError:
    key, equals, value = override.partition("=")
    if not equals or re.search(r"[^\w.@/+~:-]", key):
        return ValueError(f"{override} is not of the form KEY=VALUE or GROUP=CHOICE")
    typed = os.path.expanduser(value)  # noqa: PTH111 - no path; in quotes nobody expands `~`
    return ValueError(f"{override} cannot be read: quote the value, {key}={shlex.quote(quoted(typed))}")


def explained(error: BaseException) -> ValueError:
    """An error of Hydra's as one line; of a value that it cannot read or reads in several ways, with the quotes."""
    override, text = getattr(error, "override", None), str(error)
    if override is not None:
        return _unreadable(str(override))
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)'\n", text, re.DOTALL):
        key, _, value = (typed := ambiguous[1]).partition("=")
        one = f"{key}={shlex.quote(quoted(value))}"
        return ValueError(
            f"{typed} could be several values: for a sweep over them add --multirun, for a list give "
            f"{shlex.quote(f'{key}=[{value}]')}, for one text {one}"
        )
    return ValueError(in_one_line(error))
