"""The end of a sweep: which jobs failed, and why. Hydra makes it, by its name (`sweeps.REPORT`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from qinco_lit.cli.sweeps import FAILED, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


class ReportFailures(Callback):
    """Ends a sweep with a line that names the jobs that failed, whichever process they ran in."""

    def on_multirun_end(self, config: "DictConfig", **_: Any) -> None:
        """Raise UserError where jobs failed."""
        folder = Path(str(config.hydra.sweep.dir))
        jobs = sorted(folder.glob(f"*/{FAILED}"), key=lambda path: (len(path.parent.name), path.parent.name))
        if not jobs:
            return
        count = len([path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()])
        reasons = "; ".join(f"{path.parent.name}: {path.read_text().strip()}" for path in jobs)
        again = f"the same command with hydra.sweep.dir={folder} tries them again"
        raise UserError from ValueError(f"{len(jobs)} of {count} jobs failed ({reasons}); {again}")
