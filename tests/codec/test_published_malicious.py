"""Files that would run code, import modules or read beyond their data: refused by name, and nothing happens."""

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit.published import import_checkpoint, read_qinco1_release

GOLDEN = Path(__file__).parent.parent / "golden"


def _archive(path: Path, data: bytes, **storages: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/version", "3")
        archive.writestr("x/data.pkl", data)
        for key, content in storages.items():
            archive.writestr(f"x/data/{key.removeprefix('s')}", content)
    return path


def _text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _complaint(path: str) -> str | None:
    try:
        import_checkpoint(path)
    except ValueError as error:
        return str(error)
    return None  # some changes do no harm


_TOUCH = "__import__('pathlib').Path('owned').touch()"
_MODEL = _global("model_qinco", "QINCo")
_LINEAR = _global("torch.nn.modules.linear", "Linear")
_REBUILD = _global("torch._utils", "_rebuild_tensor_v2")
_STORAGE = b"(" + _text("storage") + _global("torch", "FloatStorage") + _text("0") + _text("cpu")
_ORDERED = _global("collections", "OrderedDict")
_TENSOR_END = _ORDERED + b")RtR"


class _RunsOnLoad:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (_TOUCH,)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_payload_is_live() -> None:
    """What the other tests refuse would have done something."""
    data = b"\x80\x02" + _global("builtins", "eval") + _text(_TOUCH) + b"\x85R."
    pickle.loads(data)
    assert Path("owned").exists()


@pytest.mark.parametrize("place", ["alone", "model", "logger", "inside"])
def test_a_saved_object_that_runs_code_is_refused_unrun(place: str) -> None:
    evil, good = _RunsOnLoad(), torch.load(GOLDEN / "qinco2.pt", weights_only=True)
    saved = {"alone": evil, "model": {"model": evil}, "logger": {**good, "logger": evil}, "inside": [[evil]]}[place]
    torch.save(saved, "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt is refused: it refers to builtins\.eval, which no published"):
        import_checkpoint("x.pt")
    assert not Path("owned").exists()


_REFUSED = {
    # names
    "os.system": (_global("os", "system") + _text("touch owned") + b"\x85R", "it refers to os.system, which"),
    "eval": (_global("__builtin__", "eval") + _text(_TOUCH) + b"\x85R", "it refers to builtins.eval, which"),
    "getattr": (_global("builtins", "getattr") + _LINEAR + _text("forward") + b"\x86R", "it refers to builtins.geta"),
    "beside a class": (_global("torch.nn.modules.linear", "os.system"), "it refers to torch.nn.modules.linear.os.sys"),
    "inside a class": (_global("model_qinco", "QINCo.__class__"), r"it refers to model_qinco.QINCo.__class__"),
    "inside a function": (_global("torch._utils", "_rebuild_tensor_v2.__code__"), "it refers to torch._utils._re"),
    "stack name": (_text("os") + _text("system") + b"\x93" + _text("touch owned") + b"\x85R", "it refers to os.system"),
    "stack name from memo": (_text("os") + b"\x94" + _text("system") + b"\x94\x93", "it refers to os.system"),
    "stack name of a list": (_text("os") + b"]\x93", "it refers to a list of 'os' by name"),
    "stack name of a global": (_MODEL + _text("system") + b"\x93", "it refers to 'system' of model_qinco.QINCo by"),
    "terminal control": (_text("o\x1b[2Js\n") + _text("x") + b"\x93", r"it refers to 'o\\x1b\[2Js\\n.x', which"),
    "instance": (b"(" + _text("touch owned") + b"ios\nsystem\n", "it uses the pickle opcode INST, which"),
    "object": (b"(" + _MODEL + b"o", "it uses the pickle opcode OBJ, which"),
    "extension": (b"\x82\x01", "it uses the pickle opcode EXT1, which"),
    "old string": (b"S'a'\n", "it uses the pickle opcode STRING, which"),
    "new with keywords": (_MODEL + b")}\x92", "it uses the pickle opcode NEWOBJ_EX, which"),
    # allowed names, wrongly used
    "call a class": (_MODEL + _text("a") + b"\x85R", r"it calls model_qinco.QINCo with \('a'\)"),
    "call a storage": (_global("torch", "FloatStorage") + b")R", r"it calls torch.FloatStorage with \(\)"),
    "call a value": (_text("a") + b")R", r"it calls 'a' with \(\)"),
    "call a record": (_MODEL + b")\x81)R", r"it calls a Record with \(\)"),
    "build with arguments": (_LINEAR + _text("a") + b"\x85\x81", r"it builds torch.*Linear from \('a'\)"),
    "build a function": (_REBUILD + b")\x81", r"it builds torch._utils._rebuild_tensor_v2 from \(\)"),
    "ordered dict": (_ORDERED + b"]\x85R", r"it calls collections.Or.* with \(a list\)"),
    "set of objects": (_global("builtins", "set") + b"]" + _MODEL + b"a\x85R", r"it calls builtins.set with "),
    "bytes": (_global("_codecs", "encode") + _text("a") + _text("rot13") + b"\x86R", r"it calls _codecs.* with \('a'"),
    "numpy objects": (_global("numpy", "dtype") + _text("O") + b"K\x00K\x01\x87R", r"it calls numpy.dtype with \('O'"),
    # attributes
    "state of a function": (_REBUILD + b"}" + _text("__code__") + b"Nsb", "it sets the state of torch._utils._rebuild"),
    "state of a class": (_MODEL + b"N}" + _text("__reduce__") + b"Ns\x86b", "it sets the state of model_qinco.QINCo"),
    "slots of a record": (_MODEL + b")\x81N}" + _text("class_name") + b"Ns\x86b", "it sets the state of a Record"),
    "state of a list": (b"]}b", "it sets the state of a list to a dict"),
    "fill a tuple": (b")Na", r"it fills \(\) by APPEND"),
    "fill a record": (_MODEL + b")\x81" + _text("a") + b"Ns", "it fills a Record by SETITEM"),
    "odd keys": (b"}NNs", "it fills a dict by SETITEM"),
    # memory
    "memo overwritten": (_MODEL + b"q\x00" + _text("a") + b"q\x00" + b"h\x00)\x81", r"it builds 'a' from \(\)"),
    "memo empty": (b"h\x07", "its pickle is damaged"),
    "stack empty": (b"R", "its pickle is damaged"),
    "mark missing": (b"t", "its pickle is damaged"),
    "two objects": (b"NN", r"its pickle is damaged \(it ends with 2 objects\)"),
    "nothing": (b"", r"its pickle is damaged \(it ends with 0 objects\)"),
    "deep": (b")" + b"\x85" * 100_000 + b")R", r"it calls \(a tuple\) with \(\)"),
    # storages
    "other persistent id": (_text("a") + b"Q", "it refers to something beside the pickle that is no storage"),
    "path as key": (_STORAGE.replace(_text("0"), _text("../a")) + b"K\x04tQ", "it refers to something beside"),
    "beyond": (_REBUILD + b"(" + _STORAGE + b"K\x04tQK\x01K\x04\x85K\x01\x85\x89" + _TENSOR_END, "it calls torch._ut"),
    "larger": (_REBUILD + b"(" + _STORAGE + b"K\x04tQK\x00K\xff\x85K\x00\x85\x89" + _TENSOR_END, "it calls torch._ut"),
}  # fmt: skip


@pytest.mark.parametrize("name", _REFUSED)
def test_a_pickle_is_refused_by_what_it_tries(name: str) -> None:
    data, message = _REFUSED[name]
    _archive(Path("x.pt"), b"\x80\x02" + data + b".")
    with pytest.raises(ValueError, match=rf"x\.pt is refused: {message}") as caught:
        read_qinco1_release("x.pt")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match="x.pt"):
        import_checkpoint("x.pt")
    assert not Path("owned").exists()


def test_no_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_qinco.py").write_text("import pathlib; pathlib.Path('owned').touch()\nclass QINCo: pass\n")
    (tmp_path / "unheard_of.py").write_text("import pathlib; pathlib.Path('owned').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    _archive(Path("x.pt"), b"\x80\x02" + _global("unheard_of", "x") + b".")
    with pytest.raises(ValueError, match=r"it refers to unheard_of\.x"):
        import_checkpoint("x.pt")
    import_checkpoint(GOLDEN / "v1_qinco.pt")  # refers to model_qinco.QINCo
    assert not {"unheard_of", "model_qinco"} & set(sys.modules)
    assert not Path("owned").exists()


def test_modules_that_contain_themselves_end() -> None:
    data = (
        b"\x80\x02"
        + _MODEL
        + b")\x81q\x00}"
        + _text("_modules")
        + b"}("
        + _text("a")
        + b"h\x00"
        + _text("b")
        + b"h\x00usb."
    )
    _archive(Path("x.pt"), data)
    with pytest.raises(ValueError, match="its modules are shared or nested deeper than 8$"):
        import_checkpoint("x.pt")


def test_storages_must_be_what_the_pickle_declares() -> None:
    tensor = _REBUILD + b"(" + _STORAGE + b"K\x04tQK\x00K\x04\x85K\x01\x85\x89" + _TENSOR_END
    data = b"\x80\x02" + _MODEL + b")\x81}" + _text("_parameters") + b"}" + _text("a") + tensor + b"ssb."
    for storages, message in (
        ({"s0": bytes(12)}, "is damaged: storage 0 has 12 bytes, 4 x 4 are declared$"),
        ({}, "is damaged: it has no data/0$"),
        ({"s0": bytes(16)}, r"describe no QINCo model|has no codebook0|missing"),
    ):
        _archive(Path("x.pt"), data, **storages)
        with pytest.raises(ValueError, match=f"x.pt.*({message})"):
            import_checkpoint("x.pt")
    with zipfile.ZipFile("x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", data)
    with pytest.raises(ValueError, match="is no torch checkpoint: data.pkl is compressed$"):
        read_qinco1_release("x.pt")


@pytest.mark.parametrize("name", ["v1_qinco.pt", "v1_opq_qinco.pt", "qinco1.pt"])
def test_damaged_pickles_end_in_one_line(name: str) -> None:
    with zipfile.ZipFile(GOLDEN / name) as archive:
        contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    pickled = next(key for key in contents if key.endswith("/data.pkl"))
    generator = np.random.default_rng(0)
    for _ in range(150):
        data = np.frombuffer(contents[pickled], np.uint8).copy()
        places = generator.integers(0, len(data), generator.integers(1, 4))
        data[places] = generator.integers(0, 256, len(places))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for key, content in contents.items():
                archive.writestr(key, data.tobytes() if key == pickled else content)
        Path("x.pt").write_bytes(buffer.getvalue())
        said = _complaint("x.pt")
        assert said is None or (said.startswith("x.pt") and len(said.splitlines()) == 1), said
    assert sorted(path.name for path in Path().iterdir()) == ["x.pt"]
