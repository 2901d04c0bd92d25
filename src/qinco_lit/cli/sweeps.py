"""Many runs from one command line: what they are, what cannot work, and what became of them."""

import json
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qinco_lit.atomic import write_atomically
from qinco_lit.cli.hydra_adapter import parsed, split_jobs
from qinco_lit.cli.run_folders import UNTYPED, is_first_process
from qinco_lit.mistakes import in_one_line, is_meant, users_mistake
from qinco_lit.run_folder import TYPED, check_can_be_made, check_unused

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.experimental.callback import Callback
    from omegaconf import DictConfig

    from qinco_lit.cli.hydra_adapter import Hydra

log = logging.getLogger(__name__)

FAILED = "failed.txt"  # in the folder of a job of a sweep that failed: why, in one line
# Lets Hydra report failed jobs at the end of a sweep.
REPORT = "+hydra.callbacks.qinco_failures._target_=qinco_lit.cli.sweeps.failures_reporter"
# Launchers of Hydra that are packages of their own, and the extra of ours that brings them.
_PLUGINS = {"joblib": "joblib", "ray": "ray-launcher", "submitit_local": "slurm", "submitit_slurm": "slurm"}
# Of a job's config, what may be another one when its sweep is gone on with.
_MAY_CHANGE = ("logger", "choices", "resume", "data_dir", *UNTYPED)


class UserError(BaseException):
    """Carries a user's mistake through Hydra, which would add lines of its own to an Exception.

    Args:
        log: where its traceback was written.
    """

    def __init__(self, log: Path | None = None) -> None:
        super().__init__()
        self.log = log


class Sweep:
    """The jobs of a command line, as the sweeper of Hydra will start them.

    Args:
        hydra: opened on the configs.
        config_name: the primary config.
        overrides: what the user typed.
    """

    def __init__(self, hydra: "Hydra", config_name: str, overrides: list["Override"]) -> None:
        from hydra.types import RunMode

        settings = [o.input_line or "" for o in overrides if o.is_hydra_override()]
        config = hydra.compose_config(
            config_name, settings, RunMode.MULTIRUN, with_log_configuration=False, validate_sweep_overrides=False
        )
        self.settings, self.config = config.hydra, config
        self.is_asked_for = config.hydra.mode == RunMode.MULTIRUN  # by hydra.mode, in a file or on the command line
        self._hydra, self._overrides = hydra, overrides

    def _parsed(self) -> list["Override"]:
        sweeper = self.settings.sweeper
        params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()] if self._is_basic else []
        return [*parsed(self._hydra, params), *self._overrides]

    @property
    def _is_basic(self) -> bool:  # other sweepers have a syntax of their own
        return str(self.settings.sweeper.get("_target_")).endswith("BasicSweeper")

    def options(self) -> dict[str, list[str]]:
        """The values of every option, as overrides; of most there is one."""
        values: dict[str, list[str]] = {}
        for override in self._parsed():
            key = override.get_key_element()
            if override.is_discrete_sweep():
                values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            elif not override.is_sweep_override():
                values[key] = [override.input_line or ""]
        return values

    def samples(self) -> Iterator[list[str]]:
        """Overrides of jobs such that every value of every swept option is in one of them."""
        values = self.options()
        yield [options[0] for options in values.values()]
        for key, options in values.items():
            for option in options[1:]:
                yield [option if other == key else others[0] for other, others in values.items()]

    def jobs(self) -> list[list[str]]:
        """Overrides of all jobs, in the order of their numbers; none for a sweeper that decides as it goes."""
        return split_jobs(self._parsed()) if self._is_basic else []

    def check_folder(self, compose: Callable[[list[str]], dict[str, Any]]) -> None:
        """Where the sweep's folder holds jobs, let them be the same ones: they are gone on with. Raises ValueError.

        Args:
            compose: the config of a job, in plain values, from its overrides.
        """
        folder = Path(str(self.settings.sweep.dir))
        jobs = self.jobs()
        folders: list[str] = []
        for overrides, name in zip(jobs, self._subfolders(jobs), strict=True):
            if name in folders:
                numbers = f"{folders.index(name)} and {len(folders)}"
                raise ValueError(
                    f"hydra.sweep.subdir={name} is the folder of jobs {numbers} alike: let it tell jobs apart"
                )
            folders.append(name)
            check_can_be_made(folder / name)
            check_unused(folder / name)
            if (folder / "multirun.yaml").is_file():
                _check_typed(folder / name, [word for word in overrides if not word.startswith(("hydra.", "hydra/"))])
                _check_config(folder / name, overrides, compose)

    def _subfolders(self, jobs: list[list[str]]) -> Iterator[str]:
        """The names of the folders of jobs: their numbers, unless hydra.sweep.subdir says something else."""
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf, open_dict

        named = OmegaConf.to_container(self.settings.sweep, resolve=False)
        assert isinstance(named, dict)
        if named["subdir"] == "${hydra.job.num}":
            yield from map(str, range(len(jobs)))
            return
        for number, overrides in enumerate(jobs):
            config = self._hydra.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = str(number)
                config.hydra.job.num = number
            HydraConfig.instance().set_config(config)
            yield str(OmegaConf.select(config, "hydra.sweep.subdir"))

    def check_processes(self, command: str, config: Mapping[str, Any]) -> None:
        """Refuse jobs that start processes of their own, which would each run the whole sweep. Raises ValueError.

        Args:
            command: what runs one job of the sweep, with its overrides behind.
            config: of one of its jobs, in plain values.
        """
        trainer = config.get("trainer")
        if not isinstance(trainer, Mapping) or "devices" not in trainer:
            return
        launcher = self.settings.launcher
        reason = several_processes(trainer)
        if str(launcher.get("_target_")).endswith("SlurmLauncher"):
            asked = {"tasks_per_node": num_devices(trainer), "nodes": trainer.get("num_nodes") or 1}
            for name, number in asked.items():
                if reason and launcher.get(name) != number:
                    option = f"hydra.launcher.{name}={number}"
                    raise ValueError(f"{reason} in a sweep on SLURM needs {option}: SLURM starts its processes")
        elif reason:
            raise ValueError(
                f"{reason} in a sweep: the processes that it starts would each run the whole sweep. Either leave it to "
                f"SLURM (hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node={num_devices(trainer)}), or run "
                f"the jobs one by one: {self._loop(command)} (docs/sweeps.md)"
            )

    def _loop(self, command: str) -> str:
        """Shell loops over the options that are swept, around the command with those that are not."""
        head, tail = "", ""
        typed = {override.get_key_element() for override in self._overrides}
        for key, options in self.options().items():
            if len(options) > 1:
                variable = key.rpartition(".")[2].rpartition("/")[2]
                values = " ".join(shlex.quote(option.partition("=")[2]) for option in options)
                head, tail = f"{head}for {variable} in {values}; do ", f"; done{tail}"
                command += f" {key}=${variable}"
            elif key in typed and not key.startswith(("hydra.", "hydra/")):
                command += f" {shlex.quote(options[0])}"
        return f"{head}{command}{tail}"


def _check_typed(run_dir: Path, asked: list[str]) -> None:
    """Let what was typed for a job that is there be what is typed now. Raises ValueError."""
    from omegaconf import OmegaConf

    saved = run_dir / TYPED / "overrides.yaml"
    there = [str(override) for override in OmegaConf.load(saved)] if saved.is_file() else asked
    if there != asked:
        earlier = " ".join(override for override in there if override not in asked) or "fewer options"
        now = " ".join(override for override in asked if override not in there) or "fewer options"
        raise _another_run(run_dir, earlier, now)


def _check_config(run_dir: Path, overrides: list[str], compose: Callable[[list[str]], dict[str, Any]]) -> None:
    """Let a training that has begun be of the same config still, wherever a value comes from. Raises ValueError."""
    if not (run_dir / "config.json").is_file():
        return
    from qinco_lit.training.run_log import merged_overrides, read_summary  # Lightning's import takes seconds

    summary = read_summary(run_dir)
    own = [str(override) for override in summary.get("resume_overrides", [])]
    if own and summary.get("state") != "finished":
        raise ValueError(
            f"job {run_dir.name} was gone on with {' '.join(own)}: finish it with qinco train resume={run_dir}, "
            "then give this command again"
        )
    try:
        saved = json.loads((run_dir / "config.json").read_text())
    except ValueError as error:
        raise ValueError(f"{run_dir / 'config.json'} is damaged: {error}") from None
    # data that lie elsewhere now are the same data
    data_dir = [f"data_dir={json.dumps(saved['data_dir'])}"] if "data_dir" in saved else []
    config = compose(merged_overrides(overrides, [*own, *data_dir]))
    there, asked = dict(_leaves(saved)), dict(_leaves(config))
    for key in [*there, *asked]:
        if there.get(key) != asked.get(key):
            earlier, now = (f"{key}={of[key]}" if key in of else f"no {key}" for of in (there, asked))
            raise _another_run(run_dir, earlier, now)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of a config as JSON, under dotted keys; without what may change."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in _MAY_CHANGE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, json.dumps(value)


def _another_run(run_dir: Path, earlier: str, now: str) -> ValueError:
    """What to raise where a sweep would go on with another one's job."""
    return ValueError(f"{run_dir} is the run of {earlier}, not of {now}: choose another hydra.sweep.dir")


def check_launcher(overrides: list["Override"], known: list[str]) -> None:
    """Say how to install a launcher of Hydra that is not there. Raises ValueError."""
    for override in overrides:
        if override.key_or_group == "hydra/launcher":
            raise_if_missing(str(override.value()), known)


def raise_if_missing(launcher: str, known: list[str]) -> None:
    """Raise ValueError for a known launcher that is not installed."""
    if launcher in _PLUGINS and launcher not in known:
        raise ValueError(f"hydra/launcher={launcher} is not installed: pip install 'qinco_lit[{_PLUGINS[launcher]}]'")


def several_processes(trainer: Mapping[str, Any]) -> str | None:
    """The option, as typed, that lets training start processes of its own; None where one process does all."""
    for name, is_several in {
        "num_nodes": (trainer.get("num_nodes") or 1) > 1,
        "devices": num_devices(trainer) > 1,
        "strategy": str(trainer.get("strategy")).startswith(("ddp", "fsdp", "deepspeed")),
    }.items():
        if is_several:
            value = trainer[name]
            return f"trainer.{name}={'[' + ','.join(map(str, value)) + ']' if isinstance(value, list) else value}"
    return None


def num_devices(trainer: Mapping[str, Any]) -> int:
    """How many devices, hence processes, Lightning makes of trainer.devices; all GPUs count for `auto`."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, int) and devices >= 0:
        return devices
    if isinstance(devices, str) and "," in devices:
        return len([device for device in devices.split(",") if device.strip()])
    if trainer.get("accelerator") not in ("auto", "gpu", "cuda"):
        return 1
    import torch

    return max(torch.cuda.device_count(), 1)


def failure(error: Exception, run_dir: Path, job: str) -> None:
    """Record why a job of a sweep failed; the others go on. A bug's traceback goes to the job's log."""
    mistake = users_mistake(error)
    is_bug = mistake is None or not is_meant(mistake)
    reason = in_one_line(mistake) if mistake is not None else f"{type(error).__name__}: {in_one_line(error)}"
    log.error("job %s failed: %s", run_dir.name, reason, exc_info=error if is_bug else None)
    if is_first_process():
        hint = f" (the traceback is in {run_dir / f'{job}.log'})" if is_bug else ""
        write_atomically(run_dir / FAILED, f"{reason}{hint}\n")


def failures_reporter() -> "Callback":
    """What Hydra calls at the end of a sweep; it raises UserError, naming the jobs that failed in whichever process."""
    from hydra.experimental.callback import Callback

    class ReportFailures(Callback):
        def on_multirun_end(self, config: "DictConfig", **_: Any) -> None:
            folder = Path(str(config.hydra.sweep.dir))
            jobs = sorted(folder.glob(f"*/{FAILED}"), key=lambda path: (len(path.parent.name), path.parent.name))
            if not jobs:
                return
            count = len([path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()])
            reasons = "; ".join(f"{path.parent.name}: {path.read_text().strip()}" for path in jobs)
            again = f"the same command with hydra.sweep.dir={folder} tries them again"
            raise UserError from ValueError(f"{len(jobs)} of {count} jobs failed ({reasons}); {again}")

    return ReportFailures()


class Earlier(NamedTuple):
    """What an earlier attempt at a job left: the result of a finished one, or a checkpoint to go on from."""

    result: float | None = None
    has_checkpoint: bool = False


def earlier_attempt(run_dir: Path, typed: list[str]) -> Earlier:
    """What there is in the folder of a training that the same sweep has started before.

    Raises:
        ValueError: what is there was not `typed`; of jobs that are known beforehand, `Sweep.check_folder` says so.
    """
    from qinco_lit.training.run_log import read_summary

    _check_typed(run_dir, typed)

    summary = read_summary(run_dir)
    if summary.get("state") == "finished":
        log.info("%s is finished: validation MSE %.6g", run_dir, summary["best_val_mse"])
        return Earlier(result=float(summary["best_val_mse"]))
    return Earlier(has_checkpoint=(run_dir / "checkpoints" / "last.ckpt").is_file())
