"""What else the machine does while something is measured: the time that its cores work for other processes."""

import os
import time
from pathlib import Path
from types import TracebackType

_STAT = Path("/proc/stat")  # of all cores that the kernel shows, also within a container


class OtherLoad:
    """Measures how busy other processes keep the machine during the block; a context manager.

    Attributes:
        num_cores: of the machine.
        other_cores: how many of them, on average, worked for others: other processes, and what takes a virtual
            machine's cores away from it. None where the system does not tell, as outside of Linux.
    """

    def __init__(self) -> None:
        self.num_cores = os.cpu_count() or 1
        self.other_cores: float | None = None

    def __enter__(self) -> "OtherLoad":
        self._began, self._others_s = time.perf_counter(), _others_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended, seconds = _others_s(), time.perf_counter() - self._began
        if ended is not None and self._others_s is not None and seconds > 0:
            # both clocks count in ticks of 10 ms
            self.other_cores = min(max(0.0, (ended - self._others_s) / seconds), float(self.num_cores))


def _others_s() -> float | None:
    """Seconds that all cores have worked since the start, less those for this process and its ended children."""
    try:
        name, *ticks = _STAT.read_text().partition("\n")[0].split()
        user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, ticks[:8])
    except (OSError, ValueError):
        return None
    if name != "cpu":
        return None
    busy = user + nice + system + interrupts + soft_interrupts + stolen
    own = os.times()
    return busy / os.sysconf("SC_CLK_TCK") - own.user - own.system - own.children_user - own.children_system
