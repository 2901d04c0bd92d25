"""faiss multiplies matrices with kernels of this processor, whatever its own OpenBLAS takes it for."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from qinco_lit import openblas
from tests.traces.machine import faiss_kernels

AVX512 = "fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl"


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


@pytest.fixture
def loaded_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a module in faiss' place finds in the variable while it is imported, on a processor of such flags."""
    folder = tmp_path / "faiss"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"import os\nfound = os.environ.get({openblas.VARIABLE!r})\n")
    (folder / "part.py").write_text("number = 3\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "faiss"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delenv(openblas.VARIABLE, raising=False)

    def load(flags: str) -> str | None:
        monkeypatch.setattr(openblas, "processor_flags", flags.split)
        openblas.choose_kernels()
        openblas.choose_kernels()  # a second call changes nothing
        assert importlib.util.find_spec("faiss") is not None  # nor does who only asks
        module = importlib.import_module("faiss")
        assert importlib.import_module("faiss.part").number == 3
        assert not any(isinstance(finder, openblas._Finder) for finder in sys.meta_path)
        found: str | None = module.found
        return found

    yield load
    for name in ("faiss", "faiss.part"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("flags", "name"), [(AVX512, "SkylakeX"), ("asimd", None)])
def test_the_variable_is_set_while_faiss_loads_and_never_after(loaded_with, flags: str, name: str | None) -> None:
    """A job that is sent to another machine would end with an illegal instruction there."""
    assert loaded_with(flags) == name
    assert openblas.VARIABLE not in os.environ


def test_what_the_user_chose_stays(loaded_with, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(openblas.VARIABLE, "Sandybridge")
    assert loaded_with(AVX512) == "Sandybridge"
    assert os.environ[openblas.VARIABLE] == "Sandybridge"


def test_faiss_runs_them() -> None:
    named = os.environ.get(openblas.VARIABLE) or openblas.kernels_for(openblas.processor_flags())
    assert named is None or faiss_kernels() in (named, None)
