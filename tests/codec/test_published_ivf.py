"""IVF checkpoints and the centroids beside them."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.commands import import_checkpoint as command
from qinco_lit.published import import_checkpoint, read_centroids, write_centroids

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "ivf_qinco2.npz") as file:
        return dict(file)


def test_an_ivf_model_gives_the_published_codes(golden: dict[str, np.ndarray]) -> None:
    quantizer = import_checkpoint(GOLDEN / "ivf_qinco2.pt").quantizer
    x = quantizer.normalize(torch.from_numpy(golden["x"]))
    lists = quantizer.assign_lists(x)
    np.testing.assert_array_equal(lists, golden["codes"][:, 0])
    assert (quantizer.encode(x, list_ids=lists).numpy() == golden["codes"][:, 1:]).mean() >= 0.999
    steps = quantizer.reconstructions(torch.from_numpy(golden["codes"][:, 1:]).long(), lists)
    raw = [quantizer.denormalize(x_hat).numpy() for x_hat in (quantizer.centroids_of(lists), *steps)]
    np.testing.assert_allclose(raw[-1], golden["x_hat"], rtol=1e-4, atol=1e-4)
    mse = [((x_hat - golden["x"]) ** 2).sum(1).mean() for x_hat in raw]
    np.testing.assert_allclose(mse, golden["mse_per_step"], rtol=1e-4)


def test_the_codec_keeps_list_ids_apart(golden: dict[str, np.ndarray]) -> None:
    codec = import_checkpoint(GOLDEN / "ivf_qinco2.pt")
    assert (codec.num_lists, codec.num_steps) == (40, 4)
    list_ids, codes = codec.encode(golden["x"])
    assert (list_ids.dtype, codes.dtype) == (np.int32, np.uint8)
    np.testing.assert_array_equal(list_ids, golden["codes"][:, 0])
    assert (codes == golden["codes"][:, 1:]).mean() >= 0.999
    x_hat = codec.decode(golden["codes"][:, 1:].astype(np.uint8), list_ids=golden["codes"][:, 0])
    np.testing.assert_allclose(x_hat, golden["x_hat"], rtol=1e-4, atol=1e-4)


def test_centroids_beside_the_checkpoint_are_in_raw_space(tmp_path: Path) -> None:
    checkpoint = torch.load(GOLDEN / "ivf_qinco2.pt", weights_only=True)
    normalized = checkpoint["model"].pop("steps.0.ivf_centroids.weight")
    raw = normalized * checkpoint["model"]["data_std"] + checkpoint["model"]["data_mean"]
    torch.save(checkpoint, tmp_path / "x.pt")
    np.save(tmp_path / "c.npy", raw.numpy())
    quantizer = import_checkpoint(tmp_path / "x.pt", centroids=tmp_path / "c.npy").quantizer
    assert quantizer.coarse_centroids is not None
    torch.testing.assert_close(quantizer.coarse_centroids, normalized, rtol=1e-5, atol=1e-6)
    own = import_checkpoint(GOLDEN / "ivf_qinco2.pt").quantizer
    assert torch.equal(own.coarse_centroids, normalized)
    assert own.config == quantizer.config
    del checkpoint["parameters"]["ivf_K"]
    torch.save(checkpoint, tmp_path / "x.pt")
    assert import_checkpoint(tmp_path / "x.pt", centroids=tmp_path / "c.npy").quantizer.num_lists == 40


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4")])
def test_centroids_become_float32(dtype: np.dtype, tmp_path: Path) -> None:
    centroids = np.random.default_rng(0).normal(size=(70_000, 3)).astype(dtype)  # more than one block
    np.save(tmp_path / "ivf_centroids_x.npy", centroids)
    assert write_centroids(tmp_path / "ivf_centroids_x.npy", tmp_path / "new" / "c.npy") == (70_000, 3)
    written = np.load(tmp_path / "new" / "c.npy")
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, centroids.astype(np.float32))
    np.testing.assert_array_equal(read_centroids(tmp_path / "new" / "c.npy"), written)


def test_files_that_are_no_centroids_are_named(tmp_path: Path) -> None:
    finite = np.zeros((5, 3))
    nan, large = finite.copy(), finite.copy()
    nan[3, 1], large[2, 0] = np.nan, 1e300
    for array, message in (
        (nan, "row 3 holds NaN or infinity$"),
        (large, "row 2 holds NaN or infinity$"),
        (finite.astype(np.int32), "holds int32: centroids are floating-point numbers$"),
        (finite[0], r"c\.npy.*"),
        (np.array([[None]], dtype=object), r"c\.npy.*"),
    ):
        np.save(tmp_path / "c.npy", array)
        with pytest.raises(ValueError, match=message):
            write_centroids(tmp_path / "c.npy", tmp_path / "out.npy")
        with pytest.raises(ValueError, match=message):
            read_centroids(tmp_path / "c.npy")
    np.save(tmp_path / "c.npy", finite)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "c.npy").read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"cut\.npy"):
        read_centroids(tmp_path / "cut.npy")
    with pytest.raises(FileNotFoundError, match=r"nothing\.npy"):
        read_centroids(tmp_path / "nothing.npy")
    with pytest.raises(ValueError, match=r"c\.bin is no npy file: the published centroids are ivf_centroids_\*\.npy$"):
        read_centroids(tmp_path / "c.bin")
    with pytest.raises(ValueError, match=r"--output .*out: centroids become an npy file, name it FILE\.npy$"):
        write_centroids(tmp_path / "c.npy", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.npy", "cut.npy"]


def test_command_takes_centroids_alone_or_beside_a_checkpoint(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    checkpoint = torch.load(GOLDEN / "ivf_qinco2.pt", weights_only=True)
    del checkpoint["model"]["steps.0.ivf_centroids.weight"]
    torch.save(checkpoint, tmp_path / "x.pt")
    np.save(tmp_path / "published.npy", np.random.default_rng(0).normal(size=(40, 16)))
    centroids, codec = tmp_path / "c.npy", tmp_path / "codec"
    command.run(parser.parse_args([str(tmp_path / "published.npy"), "--output", str(centroids)]))
    command.run(parser.parse_args([str(tmp_path / "x.pt"), "--centroids", str(centroids), "--output", str(codec)]))
    quantizer = Codec.load(codec).quantizer
    raw = quantizer.denormalize(quantizer.coarse_centroids)
    np.testing.assert_allclose(raw.numpy(), np.load(centroids), rtol=1e-4, atol=1e-5)
    both = [str(centroids), "--centroids", str(centroids), "--output", str(tmp_path / "d.npy")]
    with pytest.raises(ValueError, match=r"holds centroids itself: leave out --centroids"):
        command.run(parser.parse_args(both))
