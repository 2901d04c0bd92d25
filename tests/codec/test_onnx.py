"""Files of ONNX compute in onnxruntime what the codec computes in torch: of every family, for every prefix."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.onnx_export import export_onnx
from qinco_lit.published import import_checkpoint
from tests.cli.conftest import qinco, refused  # noqa: F401
from tests.models import random_quantizer

GOLDEN = Path(__file__).parent.parent / "golden"
_SMALL = {"num_steps": 3, "hidden_dim": 7, "embed_dim": 5}


def _published(name: str) -> Callable[[], Codec]:
    return lambda: import_checkpoint(GOLDEN / f"{name}.pt")


def _own(name: str) -> Callable[[], Codec]:
    return lambda: Codec.load(GOLDEN / "codecs" / name)


def _wide_lists() -> Codec:
    """Codes of 16 bits after lists, and a budget that is larger than the first step has pairs."""
    quantizer = random_quantizer(6, **_SMALL, codebook_size=300, num_lists=9, candidate_budget=310, beam_size=20)
    torch.nn.init.normal_(quantizer.coarse_centroids, generator=torch.Generator().manual_seed(1))
    return Codec(quantizer)


CODECS: Mapping[str, Callable[[], Codec]] = {
    "qinco2": _published("qinco2"),
    "qinco2_without_projections": _published("qinco2_square"),
    "qinco1": _published("qinco1"),
    "qinco_lr": _published("v1_qinco_lr"),
    "opq_qinco1_part_after_part": _published("v1_opq_qinco"),
    "ivf_qinco2": _published("ivf_qinco2"),
    "budget": _own("budget"),
    "product": _own("product"),
    "opq_ivf": _own("opq_ivf"),
    "16_bits_and_lists": _wide_lists,
}


def _rows(codec: Codec, number: int = 200) -> np.ndarray:
    """Vectors like those that the codec was made for: some reconstructions, and noise."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, codec.codebook_size, (number, codec.num_steps))
    lists = {} if codec.num_lists is None else {"list_ids": rng.integers(0, codec.num_lists, number)}
    x = codec.decode(codes, **lists)
    return x + np.float32(0.1 * x.std() * rng.normal(size=x.shape))


def _ran(path: Path, **inputs: Any) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, inputs), strict=True))


def _encoded(codec: Codec, x: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
    """By the codec, under the names of the file."""
    found = codec.encode(x, **options)
    return {"codes": found} if codec.num_lists is None else {"list_ids": found[0], "codes": found[1]}


@pytest.mark.parametrize("name", CODECS)
def test_onnxruntime_computes_what_the_codec_does(name: str, tmp_path: Path) -> None:
    codec = CODECS[name]()
    x = _rows(codec)
    of_all = _encoded(codec, x)
    assert len(np.unique(of_all["codes"])) > 4
    lists = {"list_ids": of_all["list_ids"]} if codec.num_lists is not None else {}
    for num_steps in (1, codec.num_steps):
        export_onnx(codec, tmp_path / "encoder.onnx", what="encoder", num_steps=num_steps)
        encoded = _encoded(codec, x, num_steps=num_steps)
        found = _ran(tmp_path / "encoder.onnx", x=x)
        assert list(found) == list(encoded)
        for output, own in encoded.items():
            assert (found[output].dtype, found[output].shape) == (own.dtype, own.shape)
            assert (found[output] == own).mean() >= 0.999

        export_onnx(codec, tmp_path / "decoder.onnx", num_steps=num_steps)
        codes = of_all["codes"][:, :num_steps]
        own = codec.decode(codes, **lists)
        decoded = _ran(tmp_path / "decoder.onnx", codes=codes, **lists)["x_hat"]
        assert decoded.dtype == np.float32
        np.testing.assert_allclose(decoded, own, rtol=1e-5, atol=1e-5 * np.abs(own).max())
    for kind in ("encoder", "decoder"):
        onnx.checker.check_model(onnx.load(tmp_path / f"{kind}.onnx"), full_check=True)


@pytest.mark.parametrize(
    "search",
    [
        {"beam_size": 1},
        {"beam_size": 7, "num_candidates": 3},
        {"num_candidates": 0, "beam_size": 2},
        {"candidate_budget": 20, "beam_size": 5},
    ],
    ids=str,
)
def test_an_encoder_searches_as_it_is_told(search: dict[str, int], tmp_path: Path) -> None:
    codec = CODECS["qinco2"]()
    x = _rows(codec)
    export_onnx(codec, tmp_path / "encoder.onnx", what="encoder", **search)
    found, own = _ran(tmp_path / "encoder.onnx", x=x)["codes"], codec.encode(x, **search)
    assert (found == own).mean() >= 0.999
    assert (found == codec.encode(x)).mean() < 0.999  # of the codec's own search


def test_any_number_of_vectors(tmp_path: Path) -> None:
    codec = CODECS["opq_ivf"]()
    x = _rows(codec, 5)
    export_onnx(codec, tmp_path / "encoder.onnx", what="encoder")
    export_onnx(codec, tmp_path / "decoder.onnx")
    for number in (0, 1, 5):
        encoded = _ran(tmp_path / "encoder.onnx", x=x[:number])
        assert {name: len(each) for name, each in encoded.items()} == {"list_ids": number, "codes": number}
        assert _ran(tmp_path / "decoder.onnx", **encoded)["x_hat"].shape == (number, codec.dim)


def test_a_file_says_what_it_is_of(tmp_path: Path) -> None:
    codec = CODECS["16_bits_and_lists"]()
    export_onnx(codec, tmp_path / "x.onnx", what="encoder", num_steps=2, beam_size=4)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {
        "what": "encoder", "codec_sha256": codec.identity, "dim": "6", "num_steps": "2", "codebook_size": "300",
        "num_lists": "9", "bytes_per_vector": "3", "beam_size": "4", "candidate_budget": "310",
    }  # fmt: skip


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, path = CODECS["qinco2"](), tmp_path / "deep" / "x.onnx"
    export_onnx(codec, path)
    before = path.read_bytes()
    export_onnx(codec, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == before

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            export_onnx(codec, path, num_steps=1)
    assert [each.name for each in path.parent.iterdir()] == ["x.onnx"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_steps": 9}, r"num_steps=9: this model has 4 steps"),
        ({"beam_size": 2}, r"a decoder searches nothing: leave out beam_size=2, or export an encoder$"),
        ({"what": "encoder", "candidate_budget": 8}, "this model has no pre-selector"),
        ({"what": "both"}, "what='both': expected one of"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        export_onnx(CODECS["qinco1"](), tmp_path / "x.onnx", **options)
    with pytest.raises(ValueError, match=r"is a folder: name a file, .*decoder\.onnx$"):
        export_onnx(CODECS["qinco1"](), tmp_path)
    assert not list(tmp_path.iterdir())


def test_more_weights_than_a_file_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = CODECS["qinco2"]()
    export_onnx(codec, tmp_path / "x.onnx", num_steps=1)
    monkeypatch.setattr("qinco_lit.onnx_export.graph._MOST_BYTES", (tmp_path / "x.onnx").stat().st_size)
    with pytest.raises(ValueError, match="at most 2 GB, which the weights are more than: give fewer num_steps$"):
        export_onnx(codec, tmp_path / "x.onnx")
    export_onnx(codec, tmp_path / "x.onnx", num_steps=1)


def test_the_package_that_is_needed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"written by the package onnx: pip install 'qinco_lit\[onnx\]'$"):
        export_onnx(CODECS["qinco1"](), tmp_path / "x.onnx")


def test_command_writes_what_the_call_does(
    qinco: Callable[..., Any],  # noqa: F811
    refused: Callable[..., str],  # noqa: F811
    tmp_path: Path,
) -> None:
    codec = str(GOLDEN / "codecs" / "plain")
    assert qinco("export", codec, "--output", "d.onnx").code == 0
    options = ("--what", "encoder", "--num-steps", "2", "--beam-size", "3")
    assert qinco("export", codec, "--output", "e.onnx", *options, "--candidate-budget", "9").code == 0
    export_onnx(Codec.load(codec), tmp_path / "own.onnx")
    assert (tmp_path / "own.onnx").read_bytes() == (tmp_path / "d.onnx").read_bytes()
    search = {"beam_size": 3, "candidate_budget": 9}
    export_onnx(Codec.load(codec), tmp_path / "own.onnx", what="encoder", num_steps=2, **search)
    assert (tmp_path / "own.onnx").read_bytes() == (tmp_path / "e.onnx").read_bytes()

    exists = refused("export", codec, "--output", "e.onnx")
    assert exists == "--output e.onnx exists: name another one, or add --overwrite"
    assert qinco("export", codec, "--output", "e.onnx", "--overwrite").code == 0
    assert (tmp_path / "e.onnx").read_bytes() == (tmp_path / "d.onnx").read_bytes()
    of_onnx = refused("export", codec, "--output", "x.pt", "--num-steps", "2", "--what", "decoder")
    assert of_onnx == "--output x.pt is no FILE.onnx, which alone has --what, --num-steps"
