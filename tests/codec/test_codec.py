"""Arrays in, arrays out: round trips, any batch size, and every input that must be refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.vectors import open_vectors, write_vectors
from tests.models import random_quantizer

DIM, STEPS, SIZE = 8, 4, 16


@pytest.fixture
def codec() -> Codec:
    return Codec(
        random_quantizer(
            DIM, num_steps=STEPS, codebook_size=SIZE, embed_dim=6, hidden_dim=12, num_candidates=4, beam_size=3
        )
    )


@pytest.fixture
def x() -> np.ndarray:
    return 5 * np.random.default_rng(0).standard_normal((200, DIM)).astype(np.float32)


def test_types_and_shapes(codec: Codec, x: np.ndarray) -> None:
    codes = codec.encode(x)
    assert (codes.dtype, codes.shape) == (np.uint8, (200, STEPS))
    x_hat = codec.decode(codes)
    assert (x_hat.dtype, x_hat.shape) == (np.float32, (200, DIM))
    assert (codec.dim, codec.num_steps, codec.codebook_size, codec.bits_per_vector) == (DIM, STEPS, SIZE, 16)
    assert repr(codec) == f"Codec({STEPS} codes of 4 bits, dim {DIM}, lists None, cpu)"


def test_torch_in_torch_out_with_the_same_numbers(codec: Codec, x: np.ndarray) -> None:
    codes = codec.encode(torch.from_numpy(x))
    assert isinstance(codes, torch.Tensor)
    assert codes.dtype == torch.uint8
    np.testing.assert_array_equal(codes.numpy(), codec.encode(x))
    np.testing.assert_array_equal(codec.decode(codes).numpy(), codec.decode(codes.numpy()))


def test_large_codebooks_need_two_bytes(x: np.ndarray) -> None:
    codec = Codec(random_quantizer(DIM, num_steps=2, codebook_size=300, hidden_dim=4, num_candidates=8, beam_size=2))
    codes = codec.encode(x)
    assert codes.dtype == np.uint16
    assert codes.max() > 255
    assert codec.bits_per_vector == 17  # 2 log2 300 = 16.5
    torch_codes = codec.encode(torch.from_numpy(x))
    assert torch_codes.dtype == torch.uint16
    np.testing.assert_array_equal(codec.decode(torch_codes).numpy(), codec.decode(codes))


def test_small_dtypes_equal_their_float32_values(codec: Codec) -> None:
    rows = np.random.default_rng(1).integers(0, 12, size=(50, DIM))
    expected = codec.encode(rows.astype(np.float32))
    for dtype in (np.uint8, np.int8, np.float16, np.float64, ">f4"):
        np.testing.assert_array_equal(codec.encode(rows.astype(dtype)), expected)


def test_encoding_minimises_like_its_decoding_says(codec: Codec, x: np.ndarray) -> None:
    codes = codec.encode(x, beam_size=12, num_candidates=0)
    error = ((codec.decode(codes) - x) ** 2).sum(1)
    rng = np.random.default_rng(3)
    for _ in range(5):  # no random code does better
        other = rng.integers(0, SIZE, size=codes.shape).astype(np.uint8)
        assert (((codec.decode(other) - x) ** 2).sum(1) > error).all()


def test_results_do_not_depend_on_workspace_or_batch(codec: Codec, x: np.ndarray) -> None:
    small = Codec(codec.quantizer, workspace_bytes=1)
    codes = codec.encode(x)
    assert (small.encode(x) == codes).mean() > 0.999
    assert (np.concatenate([codec.encode(x[:77]), codec.encode(x[77:])]) == codes).mean() > 0.999
    np.testing.assert_allclose(small.decode(codes), codec.decode(codes), rtol=1e-5, atol=5e-5)


def test_prefixes_are_the_steps(codec: Codec, x: np.ndarray) -> None:
    codes = codec.encode(x)
    steps = list(codec.decode_steps(codes))
    assert len(steps) == STEPS
    for length, x_hat in enumerate(steps, start=1):
        np.testing.assert_allclose(codec.decode(codes[:, :length]), x_hat, rtol=1e-6, atol=1e-6)


def test_mapped_files_and_read_only_arrays_encode(codec: Codec, x: np.ndarray, tmp_path: Path) -> None:
    write_vectors(tmp_path / "x.fvecs", x)
    expected = codec.encode(x)
    np.testing.assert_array_equal(codec.encode(open_vectors(tmp_path / "x.fvecs")), expected)
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(codec.encode(frozen), expected)
    np.testing.assert_array_equal(codec.encode(x[::-1]), expected[::-1])


def test_no_rows_are_no_codes(codec: Codec) -> None:
    codes = codec.encode(np.zeros((0, DIM), np.float32))
    assert codes.shape == (0, STEPS)
    assert codec.decode(codes).shape == (0, DIM)


def test_save_and_load_is_exact(codec: Codec, x: np.ndarray, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec")
    assert sorted(path.name for path in (tmp_path / "codec").iterdir()) == ["config.json", "weights.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]  # nothing temporary is left
    loaded = Codec.load(tmp_path / "codec")
    codes = codec.encode(x)
    np.testing.assert_array_equal(loaded.encode(x), codes)
    np.testing.assert_array_equal(loaded.decode(codes), codec.decode(codes))
    assert loaded.quantizer.config == codec.quantizer.config
    loaded.save(tmp_path / "codec")  # over itself
    np.testing.assert_array_equal(Codec.load(tmp_path / "codec").encode(x), codes)


def _with(x: np.ndarray, value: float) -> np.ndarray:
    bad = x.copy()
    bad[123, 4] = value
    return bad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :-1], r"vectors of shape \(200, 7\) do not fit this codec: expected \(n, 8\)"),
        (lambda x: x[0], r"vectors of shape \(8,\) do not fit"),
        (lambda x: _with(x, np.nan), "vector 123 holds NaN or infinity"),
        (lambda x: _with(x, np.inf), "vector 123 holds NaN or infinity"),
        (lambda x: (1e300 * x).astype(np.float64), "vector 0 holds NaN or infinity"),
        (lambda x: x.astype(np.int64), "dtype torch.int64 are not supported: give float32 or uint8"),
        (lambda x: x.astype(str), "are not supported: give float32 or uint8"),
        (lambda x: x.astype(complex), "are not supported"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_bad_vectors_are_refused(codec: Codec, x: np.ndarray, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.encode(change(x))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((5, STEPS + 1), np.uint8), r"codes of shape \(5, 5\) do not fit this codec: expected \(n, 1 to 4\)"),
        (np.zeros((5, 0), np.uint8), r"codes of shape \(5, 0\)"),
        (np.zeros(STEPS, np.uint8), r"codes of shape \(4,\)"),
        (np.zeros((5, STEPS), np.float32), "codes of dtype torch.float32 are refused: expected uint8"),
        (np.full((5, STEPS), SIZE, np.uint8), "code 16 at row 0, step 0 is out of range: codebook_size is 16"),
        (np.array([[0, 1], [0, -1]], np.int64), "code -1 at row 1, step 1 is out of range"),
    ],
)
def test_bad_codes_are_refused(codec: Codec, codes: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.decode(codes)


@pytest.mark.parametrize("search", [{"beam_size": 0}, {"num_candidates": -1}, {"num_candidates": SIZE + 1}])
def test_impossible_searches_are_refused(codec: Codec, x: np.ndarray, search: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(search))):
        codec.encode(x, **search)


def test_damaged_or_foreign_directories_are_refused(codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no codec in .*nowhere: config.json is missing"):
        Codec.load(tmp_path / "nowhere")
    folder = tmp_path / "codec"
    codec.save(folder)
    config, weights = folder / "config.json", folder / "weights.safetensors"
    good_config, good_weights = config.read_text(), weights.read_bytes()

    weights.write_bytes(good_weights[:-8])
    with pytest.raises(ValueError, match="is damaged or belongs to another codec"):
        Codec.load(folder)
    weights.write_bytes(good_weights)
    config.write_text(json.dumps(json.loads(good_config) | {"version": 99}))
    with pytest.raises(ValueError, match="is no codec this version reads: .*version 99"):
        Codec.load(folder)
    other = json.loads(good_config)
    other["model"]["hidden_dim"] = 13
    config.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="does not fit its config.json"):
        Codec.load(folder)
    config.write_text("{")
    with pytest.raises(ValueError, match="is no codec this version reads"):
        Codec.load(folder)


def test_saving_never_overwrites_something_else(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(ValueError, match="exists and is no codec"):
        codec.save(tmp_path / "mine")
    (tmp_path / "file").write_text("text")
    with pytest.raises(ValueError, match="exists and is no codec"):
        codec.save(tmp_path / "file")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "irreplaceable"


def test_failed_save_leaves_the_old_codec(codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "codec"
    codec.save(folder)
    before = (folder / "weights.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        codec.save(folder)
    assert (folder / "weights.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]


def test_memory_stays_bounded_for_a_wide_search(tmp_path: Path) -> None:
    """4,000 vectors with 16 x 64 candidates: 4M rows of 0.3 KB a step if they were evaluated at once, 1.2 GB."""
    codec = Codec(random_quantizer(8, num_steps=2, codebook_size=64, hidden_dim=16, num_candidates=4, beam_size=2))
    codec.save(tmp_path / "codec")
    script = (
        "import re, sys, numpy as np\n"
        "from qinco_lit.codec import Codec\n"
        "codec = Codec.load(sys.argv[1], workspace_bytes=8 << 20)\n"
        "codec.encode(np.zeros((10, 8), np.float32))\n"
        # of this program; getrusage's also counts the process that started it
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1))\n"
        "before = peak()\n"
        "codec.encode(np.random.rand(4000, 8).astype(np.float32), beam_size=16, num_candidates=0)\n"
        "print(peak() - before)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "codec")], capture_output=True, text=True, check=True
    )
    assert 0 < int(out.stdout) < 64 << 10  # KiB


def test_a_codec_that_has_changed_is_another_one(tmp_path: Path) -> None:
    greedy: dict[str, Any] = {"num_candidates": 0, "beam_size": 1, "outer_skip": False, "embed_dim": None}
    Codec(random_quantizer(12, num_steps=4, **greedy)).save(tmp_path / "codec")
    whole, x = Codec.load(tmp_path / "codec"), np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    origin = {"weights_sha256": whole.weights_sha256, "num_steps": 4}
    cut = whole.truncated(2)
    assert cut.truncated_from == cut.truncated(1).truncated_from == origin
    assert whole.truncated(4).truncated_from is None  # it is the whole codec
    cut.fit_preselector(x)  # which finds other codes than the whole codec, where it is asked
    assert cut.truncated_from is None
    cut.save(tmp_path / "fitted")
    assert Codec.load(tmp_path / "fitted").truncated_from is None
    whole.fit_preselector(x)
    assert whole.truncated(2).truncated_from is None
