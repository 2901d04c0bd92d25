"""What the oldest torch that may be installed must be, and what of newer ones is done without."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

from qinco_lit.environment import environment
from qinco_lit.quantizers.precision import cpu_has_amx_bfloat16, has_fast_bfloat16, precision_for

ROOT = Path(__file__).parents[1]


def test_the_oldest_torch_reads_files_of_others_safely() -> None:
    """Before 2.6, `torch.load(..., weights_only=True)` could be made to run code (CVE-2025-32434)."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (floor,) = (re.fullmatch(r"torch>=([\d.]+)", each) for each in needed if re.match(r"torch\b", each))
    assert floor is not None
    assert tuple(int(part) for part in floor[1].split(".")) >= (2, 6)


def test_every_file_is_read_with_weights_only() -> None:
    calls = [
        call
        for path in sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("datamodules/**/*.py")])
        for call in re.findall(r"torch\.load\([^\n]*", path.read_text())
    ]
    assert calls
    assert all("weights_only=True" in call for call in calls)


def test_a_torch_that_does_not_name_the_cpus_abilities_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not cpu_has_amx_bfloat16()
    assert not has_fast_bfloat16(torch.device("cpu"))
    assert {precision_for(name, torch.device("cpu")).name for name in ("auto", "fast")} == {"float32"}
    assert environment()["hardware"]["amx_bfloat16"] is False
