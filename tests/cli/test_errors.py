"""A user's mistake: one line on standard error that names the choices, exit code 2, and no folder."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "trian",
            r"unknown command trian \(did you mean train\?\); choose from: .*encode, .*train, truncate, verify",
        ),
        (
            "train model=qinco3",
            r"unknown choice model=qinco3 \(did you mean qinco2\?\); choose from: .*qinco1, qinco2, .*",
        ),
        ("train data=bigan", r"unknown choice data=bigan \(did you mean bigann\?\); choose from: bigann, .*photo_sift"),
        ("train recipe=fast", r"unknown choice recipe=fast; choose from: paper, tuned"),
        ("train coarse=ifv", r"unknown choice coarse=ifv \(did you mean ivf\?\); choose from: ivf, none"),
        ("train coarse=ivf", r"coarse=ivf needs either coarse.num_lists=N, .* or coarse.centroids=FILE.npy, .*"),
        (
            "train model.num_lists=9",
            r"model.num_lists is no option: the lists are coarse.num_lists=N, or the rows of coarse.centroids=.*",
        ),
        ("train +model.num_lists=9", r"model.num_lists is no option: .*, with coarse=ivf"),
        ("train coarse=ivf coarse.centroid=x", r"unknown option coarse.centroid \(did you mean centroids\?\); .*"),
        ("train coarse=ivf coarse.centroids=3", r"coarse.centroids=3: expected text or null"),
        ("train coarse.centroids=x.npy", r"unknown option coarse.centroids: coarse is a single value, .*"),
        ("train opq=true", r"model.opq=true is for models of parts: give model=pq_qinco or model=pq_qinco2"),
        ("train model=qinco_lr model.num_parts=4", r"model.num_parts=4 is for models of parts: give .*"),
        ("plan model=qinco2_s data=bigann opq=true", r"model.opq=true is for models of parts: give .*"),
        ("evaluate codec=x opq=true", r"unknown option opq; choose from: .*"),
        ("train model=pq_qinco model.parts=4", r"unknown option model.parts .*num_parts.*"),
        ("train model=pq_qinco +model.part=4", r"unknown option model.part .*num_parts.*"),
        ("train logger=null", r"unknown choice logger=null; choose from: none, wandb"),
        ("evaluate data=bigan codec=x", r"unknown choice data=bigan \(did you mean bigann\?\); .*"),
        ("train model.beam_siz=3", r"unknown option model.beam_siz \(did you mean beam_size\?\); .*num_candidates.*"),
        ("train trainer.max_epoch=3", r"unknown option trainer.max_epoch \(did you mean max_epochs\?\); .*"),
        ("train sed=3", r"unknown option sed \(did you mean seed\?\); choose from: .*data_dir, .*seed, .*"),
        ("train seed.x=3", r"unknown option seed.x: seed is a single value, not a group of options"),
        ("train hydra.run.dri=x", r"unknown option hydra.run.dri \(did you mean dir\?\); choose from: dir"),
        ("train trainer.max_epochs", r"trainer.max_epochs is not of the form KEY=VALUE or GROUP=CHOICE"),
        ("train --epochs 3 model=qinco1", r"unrecognized arguments: --epochs.*"),
        (
            "train model.num_steps=[1",
            r"""model.num_steps=\[1 cannot be read: quote the value, model.num_steps='"\[1"'""",
        ),
        ("train model.num_steps=8,16", r"model.num_steps=8,16 could be several values: .*add --multirun.*"),
        ("train -m model=qinco1,qinco3", r"unknown choice model=qinco3 .*"),
        ("train -m model.num_steps=8,16 trainer.max_epoch=1,2", r"unknown option trainer.max_epoch .*"),
        ("train -cn nothing", r"Cannot find primary config 'nothing'.*"),
        ("train -cd nowhere -cn mine", r"-cd nowhere: no such folder"),
        ("train resume=nowhere", r"resume=nowhere is no run folder: it has no .hydra/config.yaml"),
        ("train model.search=budget", r"model.search is no option: model.candidate_budget=T tries the T best pairs .*"),
        ("train recipe.compile_search=true", r"recipe.compile_search is no option: torch.compile never made .*"),
        ("train recipe.search_precision=float16", r"recipe.search_precision=float16 is no more: choose bfloat16, .*"),
        ("train --cfg job model=qinco3", r"unknown choice model=qinco3 .*"),
        ("train --help model=qinco3", r"unknown choice model=qinco3 .*"),
        (
            "evaluate codec=x logger=wandb logger.log_codec=true",
            r"logger.log_codec=true: only `qinco train` makes a codec to log",
        ),
        ("evaluate", r"codec=DIR is required: the codec/ folder of a training run"),
        ("import", r"the following arguments are required: FILE, --output"),
        ("centroids data=bigann", r"num_lists=N is required: .*"),
        ("encode", r"codec=DIR is required: qinco encode codec=DIR input=FILE output=FILE.h5"),
        ("encode codec=c", r"output=FILE.h5 is required: .*"),
        ("encode codec=c output=x.h5", r"give either input=FILE, any file of vectors, or data=CHOICE, .*"),
        ("encode codec=c output=x.h5 input=x.npy data=bigann", r"give either input=FILE, .*"),
        ("encode codec=c output=x.h5 input=x.npy dat=bigann", r"unknown option dat; choose from: .*data_dir, .*"),
        ("encode codec=c output=x.h5 input=x.npy +trainer.device=2", r"unknown option trainer.device .*devices.*"),
        ("decode", r"codec=DIR is required: qinco decode codec=DIR codes=FILE.h5 output=FILE.fvecs"),
        ("decode codec=c codes=x.h5", r"output=FILE is required: .*"),
        ("search", r"index=DIR is required: what `qinco index` wrote"),
        ("search index=x nprobes=[1]", r"unknown option nprobes \(did you mean nprobe\?\); choose from: .*"),
        ("plan", r"give either codec=DIR, .* or model=CHOICE, untrained"),
        ("plan codec=c model=qinco2 data=bigann", r"give either codec=DIR, .* or model=CHOICE, untrained"),
        ("plan codec=c", r"give either input=FILE, any file of vectors, or data=CHOICE, the database of a data set"),
        ("plan codec=c input=x.npy data=bigann", r"give either input=FILE, .*"),
        ("plan model=qinco2 data=bigann data.size=2B", r"data set bigann has no size '2B': choose data.size=1M or 1B"),
        (
            "plan model=qinco2 data=bigann second=1",
            r"unknown option second \(did you mean seconds\?\); choose from: .*",
        ),
        ("plan model=qinco2 input=gone.npy", r"gone.npy: no such file"),
        ("plan codec=nowhere data=bigann", r"no codec in nowhere: config.json is missing .*"),
        ("verify", r"the following arguments are required: PATH"),
        ("verify gone.h5", r"gone.h5: no such file"),
        ("import missing.pt --output codec", r"no checkpoint at missing.pt"),
    ],
)
def test_one_line(refused: Refused, arguments: str, message: str) -> None:
    line = refused(*arguments.split())
    assert re.fullmatch(message, line), line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train model.num_steps=abc", r"model.num_steps=abc: expected an integer"),
        ("train model.num_steps=8.5", r"model.num_steps=8.5: expected an integer"),
        ("train model=pq_qinco opq=maybe", r"model.opq=maybe: expected true or false"),
        (
            "train model=pq_qinco model.part_dims=64",
            r"model.part_dims=64: expected a list in brackets, each an integer or null",
        ),
        (
            "train model=pq_qinco2 model.part_steps=[4,a]",
            r"model.part_steps=\[4, 'a'\]: expected a list in brackets, each .*",
        ),
        ("train model.concat_rank=low", r"model.concat_rank=low: expected an integer or null"),
        ("train recipe.lr=high", r"recipe.lr=high: expected a number"),
        ("train data.limit_train=1e6", r"data.limit_train=1000000.0: expected an integer or null"),
        ("train data.metric=dot", r"data.metric=dot: expected one of l2, ip, cosine"),
        ("evaluate codec=x data=bigann data.metric=L2", r"data.metric=L2: expected one of l2, ip, cosine"),
        ("search index=x nprobe=4", r"nprobe=4: expected a list in brackets, each an integer or null"),
        ("search index=x strategy=all", r"strategy=all: expected one of grid, random"),
        ("search index=x logger=wandb logger.mode=3", r"logger.mode=3: expected text"),
        ("train seed=true", r"seed=true: expected an integer"),
        ("train trainer.max_epochs=[1]", r"trainer.max_epochs=\[1\]: expected an integer or null"),
        ("train trainer.precision=f", r"trainer.precision=f: expected one of 64, 32, 16, .*bf16-mixed.* or null"),
        ("train +model.colour=1", r"unknown option model.colour; choose from: .*num_steps.*"),
        ("train -m model.num_steps=8,abc", r"model.num_steps=abc: expected an integer"),
        ("evaluate codec=x beam_size=wide", r"beam_size=wide: expected an integer or null"),
        ("encode codec=c output=x.h5 input=x.npy merge=maybe", r"merge=maybe: expected true or false"),
        ("encode codec=c output=x.h5 input=x.npy shard_rows=1e6", r"shard_rows=1000000.0: expected an integer or null"),
        ("decode codec=c codes=x.h5 output=x.npy start=a", r"start=a: expected an integer"),
        ("plan model=qinco2 data=bigann seconds=long", r"seconds=long: expected a number"),
        ("plan model=qinco2 data=bigann trainer.max_epochs=null", r"trainer.max_epochs=null: expected an integer"),
        ("plan model=qinco2 data=bigann num_devices=8.5", r"num_devices=8.5: expected an integer"),
        ("evaluate codec=x baselines=pq", r"baselines=pq: expected a list in brackets, each .*"),
    ],
)
def test_wrong_type(refused: Refused, arguments: str, message: str) -> None:
    line = refused(*arguments.split())
    assert re.fullmatch(message, line), line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train model.codebook_size=1", r"codebook_size=1 must be from 2 to 65536"),
        ("train model.num_candidates=300", r"num_candidates=300 must be from 0 \(all\) to codebook_size=256"),
        (
            "train model=pq_qinco model.num_steps=7",
            r"num_steps=7 is no multiple of num_parts=2: say part_steps=\[...\]",
        ),
        ("train recipe.optimizer=sgd", r"recipe.optimizer='sgd' is unknown: choose from muon, adamw, adam"),
        ("train -m model.codebook_size=16,1", r"codebook_size=1 must be from 2 to 65536"),
        ("plan model=qinco2 model.beam_size=0", r"beam_size=0 must be at least 1"),
        ("plan model=qinco2 num_devices=0", r"num_devices=0: give at least 1"),
        ("plan model=qinco2 recipe.lr=0", r"recipe.lr=0 must be positive"),
        ("plan codec=nowhere", r"no codec in nowhere: config.json is missing .*"),
        ("encode codec=nowhere output=x.h5", r"no codec in nowhere: config.json is missing .*"),
        (
            "encode codec=c output=x.npy",
            r"output=x.npy: codes are written as HDF5 or Parquet, name a file that ends in .*",
        ),
        ("encode codec=c output=x.h5 shard_rows=0", r"shard_rows=0: give at least 1"),
        ("centroids num_lists=9 output=x.bin", r"output=x.bin: centroids are written as npy, .*"),
        ("centroids num_lists=9 output=x.npy iterations=0", r"iterations=0: give at least 1"),
    ],
)
def test_what_no_data_allow_is_refused_before_they_are_made_or_read(
    refused: Refused, arguments: str, message: str
) -> None:
    line = refused(*arguments.split(), "data=files", "data.train=gone.fvecs")
    assert re.fullmatch(message, line), line


@pytest.mark.parametrize("file", ["train", "database", "queries"])
@pytest.mark.parametrize("dtype", ["int32", "uint16"])
def test_files_that_encode_would_refuse_are_refused_by_train(
    refused: Refused, tmp_path: Path, file: str, dtype: str
) -> None:
    for name in ("train", "database", "queries"):
        np.save(tmp_path / f"{name}.npy", np.ones((40, 4), dtype if name == file else "uint8"))
    paths = [f"data.{name}={tmp_path}/{name}.npy" for name in ("train", "database", "queries")]
    line = refused("train", "data=files", "data.num_val=10", *paths, "logger=none")
    assert line == f"{tmp_path}/{file}.npy: vectors of dtype {dtype} are not supported: give float32 or uint8"


def test_missing_codec_and_missing_vectors_leave_no_folder(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere" in refused("evaluate", "codec=nowhere")
    assert "gone.fvecs" in refused("train", "data=files", "data.train=gone.fvecs", "logger=none")


def test_debug_shows_the_traceback(qinco: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QINCO_DEBUG", "1")
    outcome = qinco("train", "model=qinco3")
    assert "Traceback" in outcome.err  # type: ignore[attr-defined]
    assert outcome.code == 2  # type: ignore[attr-defined]
