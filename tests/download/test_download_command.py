"""`qinco download` with miniature sets on this machine: every file of the catalogue lands where its config reads it."""

import gzip
import io
import json
import logging
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import qinco_lit.conf
from datamodules.catalogue import CATALOGUE, DataFile
from qinco_lit.data.data_module import data_module
from qinco_lit.downloads import CHECKPOINTS, checkpoints
from qinco_lit.vectors import write_vectors

VARIANTS = [(name, size) for name, dataset in CATALOGUE.items() for size in dataset.sizes]
GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = {"train": 70, "database": 30, "queries": 5, "ground_truth": 5}


@pytest.fixture(autouse=True)
def logged(caplog) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def published(web, ftp, tmp_path, monkeypatch):
    """Publish a miniature of a set on the servers; return its arrays by role."""

    def publish(name: str, size: str) -> dict[str, np.ndarray]:
        files, arrays, moved = CATALOGUE[name].sizes[size], {}, {}
        for role, count in ROWS.items():
            file: DataFile | None = getattr(files, role)
            if file is not None:
                dim = file.dim if role != "ground_truth" else 4
                rows = np.random.default_rng(len(arrays)).integers(0, 30, (count, dim)).astype(file.dtype)
                arrays[role] = rows
                path = tmp_path / "server" / Path(file.path).name
                path.parent.mkdir(exist_ok=True)
                write_vectors(path, rows)
                moved[role] = replace(file, url=_publish(file, path.read_bytes()), num_rows=count, dim=dim)
        dataset = CATALOGUE[name]
        sizes = {**dataset.sizes, size: replace(files, **moved)}
        monkeypatch.setitem(CATALOGUE, name, replace(dataset, sizes=sizes))
        return arrays

    def _publish(file: DataFile, content: bytes) -> str:
        scheme, _, place = file.url.partition("://")
        place = place.partition("/")[2]
        if place.endswith(".tar.gz"):
            content = _tar(f"gnd/{Path(file.path).name}", content)
        elif place.endswith(".gz"):
            content = gzip.compress(content)
        if scheme == "ftp":
            ftp.files[place] = content
            return ftp.url(place)
        web.add(place, content)
        return web.url(place)

    return publish


def _tar(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize(("name", "size"), VARIANTS)
def test_every_set_opens_after_its_download(qinco, published, caplog, tmp_path, name, size):
    arrays = published(name, size)
    command = CATALOGUE[name].download_command(size).split()[1:]  # what a missing file's message says
    outcome = qinco(*command)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "data" / name
    kept = json.loads((folder / "DOWNLOADS.json").read_text())["files"]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*kept, "DOWNLOADS.json"}
    assert len(kept) == len(arrays)

    config = OmegaConf.create({"data_dir": "data"})
    config.data = OmegaConf.load(Path(qinco_lit.conf.__path__[0]) / "data" / f"{name}.yaml")
    data = data_module(
        {**OmegaConf.to_container(config.data, resolve=True), "size": size, "num_val": 20}, batch_size=10, seed=1
    )
    data.setup()
    np.testing.assert_array_equal(data.train_vectors[:], arrays["train"][:50])
    np.testing.assert_array_equal(data.val_vectors[:], arrays["train"][50:])
    np.testing.assert_array_equal(data.database[:], arrays["database"])
    np.testing.assert_array_equal(data.queries[:], arrays["queries"])
    if "ground_truth" in arrays:
        np.testing.assert_array_equal(data.ground_truth, arrays["ground_truth"])

    caplog.clear()
    assert qinco(*command).code == 0
    assert caplog.messages == [f"data/{name}: complete, {len(arrays)} files"]
    caplog.clear()
    assert qinco(*command, "--verify").code == 0
    assert [": as on " in message for message in caplog.messages] == [True] * len(arrays) + [False]


def test_train_on_a_downloaded_set(qinco, published, tmp_path, monkeypatch):
    published("bigann", "1M")
    monkeypatch.setenv("QINCO_DATA", "elsewhere")
    missing = qinco("train", "data=bigann", "logger=none")
    assert missing.err.endswith("is missing: `qinco download bigann --small` brings it\n")
    assert qinco("download", "bigann", "--small").code == 0
    trained = qinco(
        "train", "data=bigann", "data.num_val=20", "model=qinco2_tiny", "model.num_steps=2", "model.codebook_size=16",
        "model.num_candidates=4", "recipe.batch_size=25", "logger=none", "trainer.accelerator=cpu",
        "trainer.max_epochs=1", "hydra.run.dir=run",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert (tmp_path / "run" / "codec" / "config.json").exists()


def test_a_checkpoint_is_ready_to_import(qinco, web, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "_MODELS", web.url("models"))
    web.add("models/qinco2_L-bigann1M-8x8.pt", (GOLDEN / "qinco2.pt").read_bytes())
    outcome = qinco("download", "qinco2_L-bigann1M-8x8")
    assert outcome.code == 0, outcome.err
    command = caplog.messages[-1]
    path = "data/checkpoints/qinco2_L-bigann1M-8x8.pt"
    assert command == f"{path}: complete; next: qinco import {path} --output codecs/qinco2_L-bigann1M-8x8"
    assert qinco(*command.partition("qinco ")[2].split()).code == 0
    assert (tmp_path / "codecs" / "qinco2_L-bigann1M-8x8" / "weights.safetensors").exists()


def test_a_page_in_place_of_a_checkpoint_or_of_vectors(qinco, web, published, monkeypatch, tmp_path):
    """Even where the server does not say that it is one."""
    page = b"<html>" + b" sorry" * 1000
    monkeypatch.setattr(checkpoints, "_MODELS", web.url("models"))
    web.add("models/qinco2_L-bigann1M-8x8.pt", page)
    outcome = qinco("download", "qinco2_L-bigann1M-8x8")
    assert outcome.code == 2
    assert "is no torch checkpoint: remove data/checkpoints/" in outcome.err.splitlines()[-1]
    published("contriever", "1M")
    web.add("QINCo/datasets/ContrieverEmb/queries.npy", page)
    outcome = qinco("download", "contriever")
    assert outcome.code == 2
    assert "queries.npy is no proper .npy file (" in outcome.err.splitlines()[-1]
    folder = tmp_path / "data" / "contriever"
    assert {path.name for path in folder.iterdir() if not path.name.startswith("queries.npy")} == {
        "DOWNLOADS.json", "database1M.npy", "ground_truth1M.npy", "training_set.npy",
    }  # fmt: skip
    assert not (folder / "queries.npy").exists()


def test_another_number_of_rows_than_the_catalogues(qinco, published, web, tmp_path):
    published("contriever", "1M")
    rows = np.zeros((6, 768), np.float32)
    np.save(tmp_path / "q.npy", rows)
    web.add("QINCo/datasets/ContrieverEmb/queries.npy", (tmp_path / "q.npy").read_bytes())
    outcome = qinco("download", "contriever")
    part = "data/contriever/queries.npy.part"
    assert outcome.err.splitlines()[-1] == (
        f"qinco: error: {web.url('QINCo/datasets/ContrieverEmb/queries.npy')} has 6 rows, the catalogue says 5: "
        f"remove {part} to fetch it once more, or make it {part[:-5]} by hand if right"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "photo_sift",
            "data=photo_sift is built here when it is first used, from installed packages: "
            "there is nothing to download",
        ),
        ("files", "data=files stands for files of your own: there is nothing to download"),
        (
            "bigan",
            "nothing is published under the name bigan (did you mean bigann?); `qinco download` lists what is",
        ),
        (
            "qinco2_L-bigann1M-8x8.pt",
            "nothing is published under the name qinco2_L-bigann1M-8x8.pt (did you mean qinco2_L-bigann1M-8x8?); "
            "`qinco download` lists what is",
        ),
        ("qinco1-deep1M-8x8 --small", "--small is for data sets: qinco1-deep1M-8x8 has one size"),
        ("bigann --tries 0", "--tries 0: give at least 1"),
        ("bigann --timeout 0", "--timeout 0.0: give at least 0.001"),
        ("bigann --verify", "data/bigann/bigann_learn.bvecs is missing: the same command without --verify brings it"),
    ],
)
def test_mistakes(refused, arguments, message):
    assert refused("download", *arguments.split()) == message


def test_the_list_names_everything_and_touches_nothing(qinco, tmp_path):
    listed = qinco("download")
    assert listed == qinco("download", "--list")
    first = {line.split("  ")[0] for line in listed.out.splitlines()}
    sets = {command.removeprefix("qinco download ") for command in _commands()}
    assert {*sets, *CHECKPOINTS} <= first
    assert "132 GB" not in listed.out
    assert "145.2 GB" in listed.out  # 100M and 1B rows of BigANN
    assert list(tmp_path.iterdir()) == []


def _commands() -> list[str]:
    return [CATALOGUE[name].download_command(size) for name, size in VARIANTS]


def test_all_published_checkpoints_are_known():
    by_kind = [sum(name.startswith(kind) for name in CHECKPOINTS) for kind in ("qinco1", "qinco2_L", "IVF", "ivf_")]
    assert by_kind == [8, 8, 12, 2]
    one = CHECKPOINTS["IVF-qinco2_S-bigann1B-16x8"]
    assert one.url == "https://dl.fbaipublicfiles.com/QINCo/qinco2-models/IVF-qinco2_S-bigann1B-16x8.pt"
    assert CHECKPOINTS["ivf_centroids_deep1B_1048576"].file_name == "ivf_centroids_deep1B_1048576.npy"


def test_a_dry_run_says_what_is_there_and_touches_nothing(qinco, tmp_path):
    folder = tmp_path / "data" / "bigann"
    folder.mkdir(parents=True)
    (folder / "bigann_query.bvecs").write_bytes(b"")
    (folder / "bigann_learn.bvecs.gz").write_bytes(b"")
    (folder / "bigann_base.bvecs.gz.part").write_bytes(bytes(3000))
    (folder / "gnd").mkdir()
    (folder / "gnd" / "idx_1000M.ivecs.tar.gz.part").write_bytes(bytes(100))
    for name, done, complete in (("bigann_base.bvecs.gz", 2500, False), ("gnd/idx_1000M.ivecs.tar.gz", 100, True)):
        state = {
            "schema_version": 2,
            "url": "",
            "size_bytes": None,
            "version": None,
            "done": done,
            "complete": complete,
        }
        (folder / f"{name}.part.json").write_text(json.dumps(state))
    before = sorted(tmp_path.rglob("*"))
    lines = qinco("download", "bigann", "--dry-run").out.splitlines()
    assert lines[:-1] == [
        "data/bigann/bigann_learn.bvecs   13.2 GB   downloaded, to be unpacked",
        "    ftp://ftp.irisa.fr/local/texmex/corpus/bigann_learn.bvecs.gz",
        "data/bigann/bigann_base.bvecs   132.0 GB   begun, 2.5 kB",
        "    ftp://ftp.irisa.fr/local/texmex/corpus/bigann_base.bvecs.gz",
        "data/bigann/bigann_query.bvecs   1.3 MB   there",
        "    ftp://ftp.irisa.fr/local/texmex/corpus/bigann_query.bvecs.gz",
        "data/bigann/gnd/idx_1000M.ivecs   40.0 MB   downloaded, to be unpacked",
        "    ftp://ftp.irisa.fr/local/texmex/corpus/bigann_gnd.tar.gz",
    ]
    assert lines[-1].startswith("3 of 4 files are missing, 145.2 GB; ")
    assert sorted(tmp_path.rglob("*")) == before


def test_data_dir_moves_the_files(qinco, published, tmp_path, monkeypatch):
    published("fb_ssnpp", "1M")
    monkeypatch.setenv("QINCO_DATA", "unused")
    assert qinco("download", "fb_ssnpp", "--small", "--data-dir", "there").code == 0
    assert (tmp_path / "there" / "fb_ssnpp" / "queries.npy").exists()
    assert not (tmp_path / "unused").exists()


def test_the_catalogue_does_not_wait_for_torch():
    code = "import sys, datamodules.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
