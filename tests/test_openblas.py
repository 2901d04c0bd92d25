"""faiss multiplies matrices with kernels of this processor, whatever its own OpenBLAS takes it for."""

import ctypes
import os
from pathlib import Path

import faiss
import numpy as np
import pytest

from qinco_lit import openblas

AVX512 = "fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl"
MAPS = Path("/proc/self/maps")


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (AVX512, "SkylakeX"),
        (AVX512 + " avx512_bf16 amx_tile", "SkylakeX"),
        (AVX512.replace("avx512vl", ""), "Haswell"),  # as Xeon Phi
        ("sse4_2 avx fma avx2", "Haswell"),
        ("sse4_2 avx avx2", None),
        ("asimd sve", None),
        ("", None),
    ],
)
def test_kernels_are_the_best_that_a_processor_can_run(flags: str, name: str | None) -> None:
    assert openblas.kernels_for(flags.split()) == name


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(openblas.VARIABLE, "Sandybridge")
    openblas.choose_kernels()
    assert os.environ[openblas.VARIABLE] == "Sandybridge"


@pytest.mark.parametrize("flags", [[], ["asimd"]])
def test_openblas_chooses_where_a_processor_says_nothing(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(openblas.VARIABLE, raising=False)
    monkeypatch.setattr(openblas, "_flags", lambda: flags)
    openblas.choose_kernels()
    assert openblas.VARIABLE not in os.environ


@pytest.mark.skipif(not MAPS.is_file(), reason="only Linux says which libraries are loaded")
def test_faiss_runs_them() -> None:
    faiss.IndexFlatL2(2).add(np.zeros((1, 2), dtype=np.float32))
    paths = {line.split()[-1] for line in MAPS.read_text().splitlines() if "libopenblas" in line and "faiss" in line}
    if not paths:
        pytest.skip("this faiss brings no OpenBLAS")
    core_name = ctypes.CDLL(paths.pop()).openblas_get_corename
    core_name.restype = ctypes.c_char_p
    assert core_name().decode() == os.environ.get(openblas.VARIABLE, core_name().decode())
    if {"avx2", "fma"} <= set(openblas._flags()):
        assert core_name() != b"Prescott"
