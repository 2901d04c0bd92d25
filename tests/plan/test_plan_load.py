"""What else the machine does is in the plan: cores that worked for others, and calls that differ."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qinco_lit.commands.plan import plan
from qinco_lit.planning import load as module
from qinco_lit.planning.load import OtherLoad
from qinco_lit.planning.throughput import Throughput
from qinco_lit.reports.plan import markdown_report, notes, variation_warning
from tests.plan.test_plan_command import ABSENT, MODEL
from tests.training.recipes import RECIPE


class Machine:
    """A clock, a /proc/stat and own times that are told, not measured."""

    def __init__(self, stat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.own, self._stat = 50.0, 3.0, stat
        monkeypatch.setattr(module, "_STAT", stat)
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module.os, "times", self._times)
        monkeypatch.setattr(module.os, "sysconf", lambda _: 100)
        monkeypatch.setattr(module.os, "cpu_count", lambda: 4)
        self.busy(0)

    def _times(self) -> os.times_result:
        return os.times_result((self.own / 2, self.own / 4, self.own / 8, self.own / 8, self.now))

    def busy(self, ticks: int, *, stolen: int = 0) -> None:
        """All cores have worked for so many hundredths of a second since the beginning; idle ones count for nothing."""
        parts = [1000 + ticks // 2, 7, ticks - ticks // 2, 987_654 + ticks, 4321, 5, 6, stolen, 11, 12]
        cores = "cpu0 1 2 3 4 5 6 7 8 9 10\n"
        self._stat.write_text(f"cpu  {' '.join(map(str, parts))}\n{cores}intr 5\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "stat", monkeypatch)


@pytest.mark.parametrize(
    ("seconds", "busy", "stolen", "own", "others"),
    [
        (10.0, 1000, 0, 10.0, 0.0),  # what worked was this process
        (10.0, 2500, 0, 10.0, 1.5),
        (10.0, 1500, 1000, 10.0, 1.5),  # 5 s of others, 10 s for which the cores were away
        (10.0, 998, 0, 10.0, 0.0),  # the ticks of both clocks do not agree
        (10.0, 9000, 0, 10.0, 4.0),  # no more than there are
    ],
)
def test_cores_that_worked_for_others(
    machine: Machine, seconds: float, busy: int, stolen: int, own: float, others: float
) -> None:
    with OtherLoad() as load:
        machine.now += seconds
        machine.own += own
        machine.busy(busy, stolen=stolen)
    assert (load.num_cores, load.other_cores) == (4, pytest.approx(others))


@pytest.mark.parametrize("text", [None, "", "cpu 1 2\n", "load 1 2 3 4 5 6 7 8\n", "cpu a b c d e f g h\n"])
def test_where_the_system_does_not_tell_nothing_is_said(machine: Machine, tmp_path: Path, text: str | None) -> None:
    with OtherLoad() as load:
        machine.now += 1
        (tmp_path / "stat").unlink()
        if text is not None:
            (tmp_path / "stat").write_text(text)
    assert load.other_cores is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux tells")
def test_a_process_beside_is_seen_and_own_work_is_not() -> None:
    beside = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        with OtherLoad() as load:
            used, deadline = time.process_time(), time.monotonic() + 120
            before = _cpu_s(beside.pid)
            while _cpu_s(beside.pid) - before < 0.5 and time.monotonic() < deadline:
                time.sleep(0.01)
            its = _cpu_s(beside.pid) - before
            own = time.process_time() - used
    finally:
        beside.kill()
        beside.wait()
    assert load.other_cores is not None
    assert its >= 0.5
    assert own < its  # else the machine says nothing of the two
    assert load.other_cores > 0


def _cpu_s(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_tenth_of_the_calls_at_each_end_does_not_count() -> None:
    def variation(*rates: float) -> float:
        return Throughput(1, (1.0,) * len(rates), tuple(1 / rate for rate in rates)).variation

    assert variation(100, 100, 100) == 0
    assert variation(100, 75, 90) == pytest.approx(0.25)
    quiet = [100.0] * 9
    assert variation(*quiet, 50) == pytest.approx(0)
    assert variation(*quiet, 50, 50) == pytest.approx(0.5)


def _record(other_cores: float | None, **variation: float) -> dict[str, Any]:
    load = {"average": 2.34, "num_cores": 2, "other_cores": other_cores, "variation": variation}
    return {"load": load}


def test_one_line_says_that_calls_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Throughput, "variation", 0.43)
    options: dict[str, Any] = {"recipe": RECIPE, "model": MODEL, "seconds": 0.02, "device": "cpu", "num_threads": 1}
    record = plan(data=ABSENT, output_dir=tmp_path, **options)
    assert record["load"]["variation"] == {"encode": 0.43, "decode": 0.43, "training": 0.43}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Repeated calls vary")]
    assert said == [variation_warning(record)]
    assert variation_warning(_record(0.0, encode=0.2, decode=0.1, training=0.0)) is None
    warning = variation_warning(_record(0.0, encode=0.43, decode=0.2, training=0.25))
    assert warning is not None
    assert warning.startswith("Repeated calls vary by over 20 % (encode by 43 %, training by 25 %): ")
    assert "\n" not in warning
    quiet, busy = (record | _record(1.34, encode=share, decode=0.0, training=0.0) for share in (0.1, 0.6))
    assert "while it was measured, other processes kept 1.3 of 2 cores busy" in notes(quiet)
    assert "Repeated calls" not in markdown_report(quiet)
    assert f"\n**{variation_warning(busy)}**\n" in markdown_report(busy)
    unknown = record | _record(None, encode=0.0)
    assert "The load average before was 2.3; what other processes did meanwhile is not known here." in notes(unknown)
