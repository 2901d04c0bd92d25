"""Run a job: its whole command line is composed and checked before Hydra makes a run folder."""

import argparse
import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qinco_lit.cli import hydra_adapter
from qinco_lit.cli.groups import GONE, NEEDS_PARTS, NO_OPTIONS
from qinco_lit.cli.hydra_adapter import compose, explained, opened, parsed, quoted
from qinco_lit.cli.run_folders import UNTYPED, is_first_process, place, recorded
from qinco_lit.cli.spec import Job
from qinco_lit.cli.sweeps import (
    FAILED,
    REPORT,
    Sweep,
    UserError,
    check_launcher,
    failure,
    raise_if_missing,
)
from qinco_lit.cli.table import JOBS
from qinco_lit.cli.tracking import is_multirun
from qinco_lit.mistakes import in_one_line, is_meant, remove_if_unused, users_mistake
from qinco_lit.options import unknown, unknown_key
from qinco_lit.run_folder import TYPED, only_process

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from qinco_lit.cli.hydra_adapter import Hydra

log = logging.getLogger(__name__)

SAVED_CONFIG = Path(TYPED) / "config.yaml"
# Overrides that make a saved config, which holds no settings of Hydra, run in its folder and leave that as it is.
_RESUME_SETTINGS = ["hydra/job_logging=qinco", "hydra.job.name=train", "hydra.output_subdir=null"]
_KEPT = ("seed", "data.metric")  # by a run that is resumed, as its choices of groups
_SHORT = {"opq": "model.opq"}  # how options may be typed, and what they are, of the jobs that choose a model


@dataclass
class _Start:
    """What the check of a command line has found and made.

    Attributes:
        composed: the config (of a sweep that of its settings); None: the command line asks for Hydra's help.
        sweep_dir: the folder of a sweep; None: there is one run.
        keeps_typed: `.hydra` is written.
        may_be_removed: folders of jobs that have left nothing; one that was there before stays.
        started_in: where a resumed run was started: its relative paths are meant from there.
    """

    composed: "DictConfig | None" = None
    sweep_dir: Path | None = None
    keeps_typed: bool = False
    may_be_removed: bool = False
    started_in: Path | None = None


def run_job(name: str, arguments: list[str]) -> None:
    """Run a job with its command line. Raises ValueError, OSError or UserError for a user's mistake."""
    parser = hydra_adapter.parser()
    args = parser.parse_intermixed_args(arguments)
    job, start = JOBS[name], _prepare(name, args)

    def task(config: "DictConfig") -> float | None:
        return _run_task(job, config, start, trains=name == "train")

    with contextlib.nullcontext() if start.sweep_dir is None else only_process(start.sweep_dir):
        hydra_adapter.run(name, args, parser, task, start.composed)


def _run_task(job: Job, config: "DictConfig", start: _Start, *, trains: bool) -> float | None:
    from hydra.core.hydra_config import HydraConfig

    run_dir = Path((settings := HydraConfig.get()).runtime.output_dir)
    try:
        with (
            recorded(run_dir, config, trains=trains) if start.keeps_typed else contextlib.nullcontext(),
            _in_folder(start.started_in),
        ):
            value = job.run(_plain(config), run_dir)
        (run_dir / FAILED).unlink(missing_ok=True)
        return value
    except Exception as error:
        mistake = users_mistake(error)
        own_files = {TYPED, f"{settings.job.name}.log"}
        if is_multirun(settings) and (mistake is None or not _stops_sweep(settings, run_dir, own_files)):
            failure(error, run_dir, settings.job.name)
            return None
        if mistake is None:
            raise
        if not is_meant(mistake):
            raise UserError(_logged(mistake)) from mistake
        if start.may_be_removed and is_first_process():
            remove_if_unused(run_dir, own_files)
        raise UserError from mistake
    except KeyboardInterrupt:
        if is_multirun(settings):
            log.warning("the rest of the sweep: the same command with hydra.sweep.dir=%s", settings.sweep.dir)
        raise


def _logged(mistake: BaseException) -> Path | None:
    """Write where a mistake comes from to the job's log, and nothing to the terminal; return that file."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            what = (type(mistake), mistake, mistake.__traceback__)
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (in_one_line(mistake),), what))
            return Path(handler.baseFilename)
    return None


@contextlib.contextmanager
def _in_folder(folder: Path | None) -> Iterator[None]:
    """Be in the folder for the block; a file that is missing then is told with it."""
    if folder is None or folder == Path.cwd():
        yield
        return
    with contextlib.chdir(folder):
        try:
            yield
        except FileNotFoundError as error:
            hint = f"relative paths are meant from {folder}, where the run was started"
            raise FileNotFoundError(f"{in_one_line(error)} ({hint})") from error


def _stops_sweep(settings: "HydraConf", run_dir: Path, own_files: set[str]) -> bool:
    """Whether a failed job ends the sweep: the first one, before it made anything; the others would fail like it."""
    is_basic = "basic_launcher" in str(settings.launcher.get("_target_"))
    return is_basic and settings.job.num == 0 and {entry.name for entry in run_dir.iterdir()} <= own_files


# --- checking the command line before Hydra makes a folder ----------------------------------------------------------


def _prepare(name: str, args: argparse.Namespace) -> _Start:
    """Check the command line and make the folder of the run; with resume=, point it at that run's saved config.

    Raises:
        ValueError: the user's mistakes.
        OSError: the folder cannot be made.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if args.hydra_help or args.shell_completion:
        return _Start()
    if name in ("train", "plan"):
        if any(override.startswith("codec=") for override in args.overrides):
            for short in _SHORT:
                if any(re.match(rf"\+*{short}=", override) for override in args.overrides):
                    raise ValueError(f"{short}= goes with model=CHOICE: the model of codec=DIR is what it is")
        for short, option in _SHORT.items():
            args.overrides = [re.sub(rf"^(\+*){short}=", rf"\1{option}=", override) for override in args.overrides]
    for override in args.overrides:
        if "=" not in override and not override.startswith("~"):
            raise ValueError(f"{override} is not of the form KEY=VALUE or GROUP=CHOICE")
    try:
        with opened(name, args) as hydra:
            started_in = _resume(hydra, args) if name == "train" else None
            if started_in is None:
                return _check(name, hydra, args)
        with opened(name, args) as hydra:
            start = _check(name, hydra, args)
            start.started_in = started_in
            return start
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error) from error


def _check(name: str, hydra: "Hydra", args: argparse.Namespace) -> _Start:
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    config_name, overrides = args.config_name or name, parsed(hydra, args.overrides)
    check_launcher(overrides, hydra.config_loader.get_group_options("hydra/launcher"))
    if args.help or args.cfg or args.info:
        config = _composed(hydra, config_name, args.overrides)
        _plain(config)  # which is a check of all its values
        return _Start(composed=config)
    wrong: Exception | None = None
    if not args.multirun:  # most are one run, and then composed once
        try:
            config = _composed(hydra, config_name, args.overrides)
            values = _plain(config)
        except (ValueError, HydraException, OmegaConfBaseException) as error:
            wrong = error  # a sweep may be what it is
        else:
            if config.hydra.mode != RunMode.MULTIRUN:
                return _checked_run(name, args, config, values)
    sweep = _sweep(hydra, config_name, overrides)
    if sweep is None or not (args.multirun or sweep.is_asked_for):
        if wrong is not None:
            raise wrong
        config = _composed(hydra, config_name, args.overrides)
        return _checked_run(name, args, config, _plain(config))
    configs = [_checked_config(hydra, config_name, job) for job in sweep.samples()]
    files = [f"-cd {args.config_dir}"] * bool(args.config_dir) + [f"-cn {args.config_name}"] * bool(args.config_name)
    one_job = " ".join(["qinco", name, *files, *["hydra.mode=RUN"] * bool(files)])
    for values in configs:
        JOBS[name].check(values)
        sweep.check_processes(one_job, values)
        for option in UNTYPED:
            if values.get(option):
                raise ValueError(f"{option}=true is for one run: a sweep begins anew in another hydra.sweep.dir")
    sweep.check_folder(lambda job: _checked_config(hydra, config_name, job))
    args.overrides.append(REPORT)
    return _placed(args, sweep.config, "sweep")


def _checked_run(name: str, args: argparse.Namespace, config: "DictConfig", values: dict[str, Any]) -> _Start:
    JOBS[name].check(values)
    return _placed(args, config, "run")


def _placed(args: argparse.Namespace, config: "DictConfig", group: str) -> _Start:
    """Make the folder, the last of what may be refused here, and let Hydra write no `.hydra` into it."""
    found = place(config.hydra, group)
    args.overrides += [*found.overrides, "hydra.output_subdir=null"]
    is_sweep, keeps_typed = group == "sweep", config.hydra.output_subdir is not None
    sweep_dir = found.folder if is_sweep else None
    return _Start(config, sweep_dir, keeps_typed, may_be_removed=is_sweep or found.is_new)


def _sweep(hydra: "Hydra", config_name: str, overrides: list["Override"]) -> Sweep | None:
    from hydra.errors import HydraException

    try:
        return Sweep(hydra, config_name, overrides)
    except HydraException as error:
        for launcher in re.findall("hydra/launcher/([a-z_]+)", str(error)):
            raise_if_missing(launcher, hydra.config_loader.get_group_options("hydra/launcher"))
        Sweep(hydra, config_name, [])  # raises where the file is to blame
        return None  # else the check of a single job says what is wrong


def _resume(hydra: "Hydra", args: argparse.Namespace) -> Path | None:
    """With resume=, point the command line at that run's saved config; return the folder where it was started."""
    overrides = parsed(hydra, args.overrides)
    folder = next((o.value() for o in overrides if o.key_or_group == "resume"), None)
    if folder is None:
        return None
    from qinco_lit.training.run_log import merged_overrides, read_summary  # Lightning's import takes seconds

    saved = Path(str(folder)).absolute() / SAVED_CONFIG
    if args.multirun or args.config_name:
        raise ValueError(f"resume={folder} continues one run with its own config; leave out -m and -cn")
    if not saved.is_file():
        raise ValueError(f"resume={folder} is no run folder: it has no {SAVED_CONFIG}")
    for override in overrides:
        if override.key_or_group in UNTYPED:
            raise ValueError(f"resume={folder} goes on with a run, {override.input_line} begins anew: leave one out")
        is_choice = hydra.config_loader.get_group_options(override.key_or_group) and not override.is_hydra_override()
        if is_choice or override.key_or_group in _KEPT:
            raise ValueError(f"resume={folder} keeps the choices of its run; leave out {override.input_line}")
    run_dir = saved.parent.parent
    args.config_dir, args.config_name = str(saved.parent), saved.stem
    earlier = [each for each in read_summary(run_dir).get("resume_overrides", []) if each.partition("=")[0] not in GONE]
    args.overrides = [
        *_RESUME_SETTINGS,
        f"hydra.run.dir={quoted(str(run_dir))}",
        *merged_overrides(earlier, args.overrides),
    ]
    if "QINCO_DATA" in os.environ:  # meant from here
        os.environ["QINCO_DATA"] = str(Path(os.environ["QINCO_DATA"]).absolute())
    return _started_in(saved.with_name("hydra.yaml"))


def _started_in(settings: Path) -> Path:
    """The folder where a run was started, of its saved settings of Hydra; this one where that is gone."""
    from omegaconf import OmegaConf

    known = OmegaConf.select(OmegaConf.load(settings), "hydra.runtime.cwd") if settings.is_file() else None
    return Path(known) if known is not None and Path(known).is_dir() else Path.cwd()


def _checked_config(hydra: "Hydra", config_name: str, overrides: list[str]) -> dict[str, Any]:
    """Return the job's config in plain values, as `_composed`."""
    return _plain(_composed(hydra, config_name, overrides))


def _composed(hydra: "Hydra", config_name: str, overrides: list[str]) -> "DictConfig":
    """Return the job's config; ValueError names unknown choices and keys in the house's words."""
    from hydra.errors import HydraException

    typed = parsed(hydra, overrides)
    options = {o.key_or_group: hydra.config_loader.get_group_options(o.key_or_group) for o in typed}
    choices = [o for o in typed if options[o.key_or_group] and not o.is_delete()]
    for override in choices:
        value = "null" if override.value() is None else override.value()
        if isinstance(value, str | int | float) and value not in options[override.key_or_group]:
            raise unknown("choice", f"{override.key_or_group}={value}", options[override.key_or_group])
    for override in typed:
        if override.key_or_group in NO_OPTIONS:
            raise ValueError(f"{override.key_or_group} is no option: {NO_OPTIONS[override.key_or_group]}")
    try:
        return compose(hydra, config_name, overrides)
    except HydraException:
        known = compose(hydra, config_name, [o.input_line or "" for o in choices])
        for override in typed:
            model = known.get("model")
            if override.key_or_group in NEEDS_PARTS and model is not None and "num_parts" not in model:
                raise ValueError(
                    f"{override.input_line} is for models of parts: give model=pq_qinco or model=pq_qinco2"
                ) from None
            if not options[override.key_or_group] and not (override.is_add() or override.is_force_add()):
                error = unknown_key(known, override.key_or_group)
                if error is not None:
                    raise error from None
        raise


def _plain(config: "DictConfig") -> dict[str, Any]:
    values = hydra_adapter.plain(config)
    for group, _, name in (option.partition(".") for option in GONE):
        if isinstance(values.get(group), dict):
            values[group].pop(name, None)
    return values
