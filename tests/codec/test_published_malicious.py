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

from qinco_lit.published import (
    checkpoint_file,
    import_checkpoint,
    qinco1_release,
    qinco2_layout,
    read_qinco1_release,
)

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
    with pytest.raises(ValueError, match=r"x\.pt is refused: it refers to eval, which no published"):
        import_checkpoint("x.pt")
    assert not Path("owned").exists()


_NAME, _OPCODE = "is refused: it refers to ", "is refused: it uses the pickle opcode "
_CALL, _NEW = "is refused: Trying to call reduce for unrec.* ", "is refused: Can only create new object for .* "
_STATE, _DAMAGED = "is refused: Can only build .* but got ", "is no torch checkpoint or is damaged: "
_OTHER = "is neither tensors in a dict nor a model of the QINCo1 release: it holds a "
_REFUSED = {
    # names
    "os.system": (_global("os", "system") + _text("touch owned") + b"\x85R", f"{_NAME}os.system, which"),
    "posix.system": (_global("posix", "system") + _text("touch owned") + b"\x85R", f"{_NAME}posix.system, which"),
    "eval": (_global("__builtin__", "eval") + _text(_TOUCH) + b"\x85R", f"{_NAME}eval, which"),
    "getattr": (_global("builtins", "getattr") + _LINEAR + _text("forward") + b"\x86R", f"{_NAME}getattr, which"),
    "beside a class": (_global("torch.nn.modules.linear", "os.system"), f"{_NAME}torch.nn.modules.linear.os.system, "),
    "inside a class": (_global("model_qinco", "QINCo.__class__"), f"{_NAME}model_qinco.QINCo.__class__, "),
    "inside a function": (_global("torch._utils", "_rebuild_tensor_v2.__code__"), f"{_NAME}torch._utils._rebuild_t"),
    "terminal control": (_global("o\x1b[2Js", "x"), _NAME + r"o\\x1b\[2Js.x, which"),
    "stack name": (_text("os") + _text("system") + b"\x93" + _text("touch owned") + b"\x85R", f"{_OPCODE}0x93"),
    "stack name from memo": (_text("os") + b"\x94" + _text("system") + b"\x94\x93", f"{_OPCODE}0x94"),
    "stack name of a list": (_text("os") + b"]\x93", f"{_OPCODE}0x93"),
    "stack name of a global": (_MODEL + _text("system") + b"\x93", f"{_OPCODE}0x93"),
    "instance": (b"(" + _text("touch owned") + b"ios\nsystem\n", f"{_OPCODE}0x69"),
    "object": (b"(" + _MODEL + b"o", f"{_OPCODE}0x6f"),
    "extension": (b"\x82\x01", f"{_OPCODE}0x82"),
    "old string": (b"S'a'\n", f"{_OPCODE}0x53"),
    "new with keywords": (_MODEL + b")}\x92", f"{_OPCODE}0x92"),
    # allowed names, wrongly used
    "call a class": (_MODEL + _text("a") + b"\x85R", rf"{_DAMAGED}TypeError: QINCo\(\) takes no arguments"),
    "call a storage": (_global("torch", "FloatStorage") + b")R", f"{_DAMAGED}TypeError: 'StorageType' object is not"),
    "call a value": (_text("a") + b")R", f"{_CALL}a$"),
    "call a record": (_MODEL + b")\x81)R", f"{_CALL}<.*QINCo object at"),
    "build with arguments": (_LINEAR + _text("a") + b"\x85\x81", rf"{_DAMAGED}TypeError: Linear\(\) takes no argum"),
    "build a function": (_REBUILD + b")\x81", f"{_DAMAGED}TypeError: .* is not a type object"),
    "ordered dict": (_ORDERED + b"]\x85R", f"{_OTHER}OrderedDict$"),
    "set of objects": (_global("builtins", "set") + b"]" + _MODEL + b"a\x85R", f"{_OTHER}set$"),
    "bytes": (_global("_codecs", "encode") + _text("a") + _text("rot13") + b"\x86R", f"{_OTHER}str$"),
    "numpy objects": (_global("numpy", "dtype") + _text("O") + b"K\x00K\x01\x87R", f"{_DAMAGED}KeyError: 'O'"),
    # attributes
    "state of a function": (_REBUILD + b"}" + _text("__code__") + b"Nsb", f"{_STATE}<class 'function'>"),
    "state of a class": (_MODEL + b"N}" + _text("__reduce__") + b"Ns\x86b", f"{_STATE}<class 'type'>"),
    "slots of a record": (_MODEL + b")\x81N}" + _text("class_name") + b"Ns\x86b", "is refused: it gives a model_q"),
    "odd names": (_MODEL + b")\x81}" + _text("a\x1b") + b"Nsb", "is refused: it gives a model_qinco.QINCo attributes"),
    "state of a list": (b"]}b", f"{_STATE}<class 'list'>"),
    "fill a tuple": (b")Na", "is refused: Can only append to lists, but got <class 'tuple'>"),
    "fill a record": (_MODEL + b")\x81" + _text("a") + b"Ns", "is refused: Can only SETITEM for dict, .* but got "),
    "odd keys": (b"}NNs", f"{_OTHER}dict$"),
    # memory
    "memo overwritten": (_MODEL + b"q\x00" + _text("a") + b"q\x00" + b"h\x00)\x81", f"{_NEW}got a$"),
    "memo empty": (b"h\x07", f"{_DAMAGED}KeyError: 7"),
    "stack empty": (b"R", f"{_DAMAGED}IndexError: pop from empty list"),
    "mark missing": (b"t", f"{_DAMAGED}IndexError: pop from empty list"),
    "two objects": (b"NN", f"{_OTHER}NoneType$"),
    "nothing": (b"", f"{_DAMAGED}IndexError: pop from empty list"),
    "deep": (b")" + b"\x85" * 100_000 + b")R", f"({_CALL}|{_DAMAGED})"),
    # storages
    "other persistent id": (_text("a") + b"Q", "is refused: persistent_load id must be tuple or int, but got"),
    "path as key": (_STORAGE.replace(_text("0"), _text("../a")) + b"K\x04tQ", f"{_DAMAGED}.*data/../a: file not"),
    "beyond": (_REBUILD + b"(" + _STORAGE + b"K\x04tQK\x01K\x04\x85K\x01\x85\x89" + _TENSOR_END, f"{_DAMAGED}Tryin"),
    "larger": (_REBUILD + b"(" + _STORAGE + b"K\x04tQK\x00K\xff\x85K\x01\x85\x89" + _TENSOR_END, f"{_DAMAGED}Tryin"),
}  # fmt: skip


@pytest.mark.parametrize("name", _REFUSED)
def test_a_pickle_is_refused_by_what_it_tries(name: str) -> None:
    data, message = _REFUSED[name]
    _archive(Path("x.pt"), b"\x80\x02" + data + b".", s0=bytes(16))
    with pytest.raises(ValueError, match=rf"x\.pt {message}") as caught:
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


def _with_a_tensor(shape: bytes, strides: bytes) -> bytes:
    tensor = _REBUILD + b"(" + _STORAGE + b"K\x04tQK\x00" + shape + strides + b"\x89" + _TENSOR_END
    return b"\x80\x02" + _MODEL + b")\x81}" + _text("_parameters") + b"}" + _text("a") + tensor + b"ssb."


def test_storages_must_be_what_the_pickle_declares() -> None:
    data = _with_a_tensor(b"K\x04\x85", b"K\x01\x85")
    for storages, message in (
        ({"s0": bytes(12)}, r"is damaged: record size \(12 bytes\) does not match"),
        ({"s0": bytes(20)}, r"is damaged: record size \(20 bytes\) does not match"),
        ({}, "is damaged: .*failed locating file data/0"),
        ({"s0": bytes(16)}, r"describe no QINCo model|has no codebook0|missing"),
    ):
        _archive(Path("x.pt"), data, **storages)
        with pytest.raises(ValueError, match=f"x.pt.*({message})"):
            import_checkpoint("x.pt")
    with zipfile.ZipFile("x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", data)
    with pytest.raises(ValueError, match="is no torch checkpoint: x/data.pkl is compressed$"):
        read_qinco1_release("x.pt")


@pytest.mark.parametrize("name", ["v1_qinco.pt", "qinco2.pt"])
def test_a_torch_that_takes_sizes_from_the_pickle_gives_nothing_from_beyond(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch 2.6: a storage may be said to be larger than it is."""
    sizes = checkpoint_file.stored_sizes(GOLDEN / name)
    for module in (qinco1_release, qinco2_layout):
        monkeypatch.setattr(module, "stored_sizes", lambda _: sizes - {max(sizes)})
    with pytest.raises(ValueError, match=rf"{name} is damaged: .* is not what is stored of it$"):
        import_checkpoint(GOLDEN / name)


def test_no_more_numbers_than_are_stored() -> None:
    _archive(Path("x.pt"), _with_a_tensor(b"K\xff\x85", b"K\x00\x85"), s0=bytes(16))
    with pytest.raises(ValueError, match="is damaged: a is not what is stored of it$"):
        import_checkpoint("x.pt")


def test_what_may_be_read_is_as_before() -> None:
    before = torch.serialization.get_safe_globals()
    import_checkpoint(GOLDEN / "v1_qinco.pt")
    with pytest.raises(ValueError):
        import_checkpoint(_archive(Path("x.pt"), b""))
    assert torch.serialization.get_safe_globals() == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(GOLDEN / "v1_qinco.pt", weights_only=True)


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
