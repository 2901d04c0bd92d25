"""Run folders around Hydra: which one a job gets, and when what was typed is kept in it.

Hydra makes the folder and would write `.hydra` before anything has been checked. Here a folder that is named by the
time is made by the process that gets it, and `.hydra` is written when the job has begun.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qinco_lit.cli.hydra_adapter import quoted
from qinco_lit.locks import check_local
from qinco_lit.run_folder import TYPED, made, only_process, reserved, staged_record, take_record

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

# No run has these: they say what the command may do to another one.
UNTYPED = ("overwrite",)
# What a process that another launcher has started is told, where no folder is named: it writes to none.
_NO_FOLDER = ["hydra.run.dir=.", "hydra/job_logging=console"]


class Place(NamedTuple):
    """The folder of a run or of a sweep, whether it was made for it, and the overrides that let Hydra take it."""

    folder: Path
    is_new: bool
    overrides: list[str]


def place(settings: "HydraConf", group: str) -> Place:
    """Make the folder of a run or of a sweep.

    A folder whose name holds the time is new: one that is there is of another run of the same second.

    Args:
        settings: Hydra's, composed.
        group: run or sweep.

    Raises:
        OSError: the folder cannot be made.
        ValueError: a url.
    """
    from omegaconf import OmegaConf

    own_settings: Any = getattr(settings, group)
    folder, is_first = str(own_settings.dir), is_first_process()
    named = OmegaConf.to_container(own_settings, resolve=False)
    assert isinstance(named, dict)
    check_local(Path(folder))
    if "${now:" not in str(named["dir"]):
        return Place(Path(folder), is_first and made(Path(folder)), [])
    own = _of_first_process(str(reserved(Path(folder))) if is_first else None)
    if own is None:
        return Place(Path(), False, _NO_FOLDER)
    return Place(Path(own), is_first, [f"hydra.{group}.dir={quoted(own)}"])


def _of_first_process(folder: str | None) -> str | None:
    """Tell the other ranks of torchrun the first one's folder, or be told; None where nobody can tell."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return folder
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"qinco/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if folder is not None:
        store.set(key, folder)
    return str(store.get(key).decode())


def is_first_process() -> bool:
    """Whether this process is the first, or only one, of its job."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK"))


@contextlib.contextmanager
def recorded(run_dir: Path, config: "DictConfig", *, trains: bool) -> Iterator[None]:
    """Hold a run folder for the block, and keep what was typed in `.hydra` there.

    Where an earlier run has its own, that stays until this one has ended well, or until its training begins (which
    holds its folder itself): a job that is refused changes nothing.
    """
    if not is_first_process():
        yield
        return
    with contextlib.nullcontext() if trains else only_process(run_dir):
        staged = staged_record(run_dir)
        try:
            _write_typed(staged, config)
            if not (run_dir / TYPED).exists():
                with contextlib.suppress(OSError):  # another process was first; who begins is seen then
                    staged.rename(run_dir / TYPED)
            yield
            if not trains:
                take_record(run_dir)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _write_typed(folder: Path, config: "DictConfig") -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    settings: Any = HydraConfig.instance().cfg
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key not in UNTYPED])
    typed = typed_overrides([str(override) for override in settings.hydra.overrides.task])
    folder.mkdir()
    for name, values in {"config": own, "hydra": settings, "overrides": OmegaConf.create(typed)}.items():
        (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(values), encoding="utf-8")


def typed_overrides(overrides: list[str]) -> list[str]:
    """What was typed for a run, without what the command may do to another one."""
    return [override for override in overrides if override.lstrip("+").partition("=")[0] not in UNTYPED]
