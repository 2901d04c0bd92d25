"""`qinco info` says what everything is that commands make and read, and how to go on with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import qinco_lit as ql
from qinco_lit.encoding.shards import ShardFolder
from qinco_lit.reports.facts.describe import describe
from qinco_lit.run_folder import LOCK, TYPED, only_process
from qinco_lit.vectors import write_vectors
from tests.artefacts import DIM, NUM_STEPS, make_artefacts
from tests.cli.conftest import Qinco


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artefacts(tmp_path_factory.mktemp("artefacts"))


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "own"))


def facts(path: Path | str) -> tuple[str, dict[str, str]]:
    what, lines = describe(str(path))
    assert len(dict(lines)) == len(lines)
    return what, dict(lines)


def test_a_codec_is_its_model_rate_parameters_and_training(made):
    what, lines = facts(made / "run" / "codec")
    codec = ql.Codec.load(made / "run" / "codec")
    summary = json.loads((made / "run" / "summary.json").read_text())
    assert what == "codec, QINCo2"
    assert lines["dim"] == str(DIM)
    assert lines["rate"] == "4 codes of 32: 20 bits a vector, and the number of one of 4 lists"
    assert int(lines["parameters"].replace(",", "")) == summary["parameters"]
    assert sum(each.numel() for each in codec.quantizer.parameters()) == summary["parameters"]
    assert lines["best"] == f"validation MSE {summary['best_val_mse']:,.6g} (epoch 1 of 1)"


def test_a_codec_elsewhere_has_no_training_and_may_be_cut(made, tmp_path):
    codec = ql.Codec.load(made / "run" / "codec")
    codec.truncated(2).save(tmp_path / "short")
    _, lines = facts(tmp_path / "short")
    assert "best" not in lines
    assert lines["rate"].startswith("2 codes of 32: 10 bits")
    assert lines["cut from"] == f"weights {codec.identity[:12]}, {NUM_STEPS} codes"


def test_a_store_is_its_rows_rate_input_and_codec(made):
    what, lines = facts(made / "codes.h5")
    store = ql.open_codes(made / "codes.h5")
    assert what == "store of codes"
    assert lines["rows"] == "600"
    assert lines["rate"] == f"4 codes of 32, 4 lists: {store.info.bytes_per_vector} bytes a vector"
    assert lines["codec"] == f"weights {ql.Codec.load(made / 'run' / 'codec').identity[:12]}"
    assert lines["input"] == f"{made / 'base.npy'}: dim {DIM}, float32"


def test_a_store_that_is_not_finished_says_how_much_of_it_is_there(made, tmp_path):
    info = ql.open_codes(made / "codes.h5").info
    folder = ShardFolder(tmp_path / "begun.h5", info)
    folder.folder.mkdir()
    folder.create()
    what, lines = facts(tmp_path / "begun.h5")
    assert what == "store of codes, not complete"
    assert lines["finished"] == "0 rows in 0 of 1 shards"
    assert lines["go on"] == "the same `qinco encode` or `qinco truncate` again"


def test_an_index_is_its_vectors_lists_decoders_and_memory(made):
    what, lines = facts(made / "index")
    files = [file for file in (made / "index").rglob("*") if file.is_file() and file != made / "index" / "config.json"]
    assert what == "index"
    assert lines["vectors"] == f"600, dim {DIM}, l2"
    assert lines["lists"] == "4"
    assert lines["decoders"].startswith("additive, pairwise (")
    assert lines["disk"] == f"{sum(file.stat().st_size for file in files) / 1000:.1f} kB"


@pytest.mark.parametrize(
    ("recorded", "works", "state", "fact"),
    [
        ("finished", False, "finished", "longer"),
        ("interrupted", False, "interrupted", "go on"),
        ("running", False, "killed", "go on"),
        ("running", True, "running", "watch"),
    ],
)
def test_a_run_says_its_state_and_how_to_go_on(own, recorded, works, state, fact):
    run = own / "run"
    summary = json.loads((run / "summary.json").read_text()) | {"state": recorded}
    (run / "summary.json").write_text(json.dumps(summary))
    if works:
        with only_process(run):
            what, lines = facts(run)
    else:
        what, lines = facts(run)
    assert what == f"training, {state}"
    assert not (run / LOCK).exists()
    assert str(run) in lines[fact]
    assert lines["codec"] == str(run / "codec")
    assert len({"go on", "watch", "longer"} & set(lines)) == 1


def test_a_run_that_was_ended_before_its_first_checkpoint_is_a_training(tmp_path):
    """While it looks for centroids, say: nothing has been summed up yet."""
    (tmp_path / TYPED).mkdir()
    (tmp_path / "train.log").touch()
    what, lines = facts(tmp_path)
    assert what == "training, begun"
    assert lines["go on"] == f"qinco train resume={tmp_path}"


def test_a_run_that_was_resumed_says_all_its_options(own):
    summary = json.loads((own / "run" / "summary.json").read_text())
    assert "options" not in facts(own / "run")[1]
    summary |= {"command": "qinco train resume=run", "overrides": ["data=files", "seed=1"]}
    (own / "run" / "summary.json").write_text(json.dumps(summary))
    assert facts(own / "run")[1]["options"] == "data=files seed=1"


def test_a_comparison_is_a_page_to_read(made, tmp_path, qinco):
    assert qinco("compare", str(made), "--output", str(tmp_path / "compared")).code == 0
    what, lines = facts(tmp_path / "compared")
    assert what == "comparison"
    assert all(Path(line).is_file() for line in lines.values())


def test_a_folder_of_runs_counts_them(own):
    shutil.copytree(own / "run", own / "again")
    what, lines = facts(own)
    assert what == "folder of runs"
    assert lines["states"] == "2 finished"


def test_vectors_are_their_rows_dim_dtype_and_files(tmp_path):
    for part in (2, 10):
        write_vectors(tmp_path / f"part-{part}.bvecs", np.zeros((part, 4), np.uint8))
    what, lines = facts(tmp_path / "part-*.bvecs")
    assert what == "vectors"
    assert (lines["rows"], lines["dim"], lines["dtype"]) == ("12", "4", "uint8")
    assert lines["files"] == f"2, from {tmp_path}/part-2.bvecs to {tmp_path}/part-10.bvecs"
    assert lines["train"] == f"qinco train data=files data.train='{tmp_path}/part-*.bvecs'"
    assert facts(tmp_path)[1]["rows"] == "12"
    write_vectors(tmp_path / "ids.ivecs", np.zeros((3, 5), np.int32))
    assert "train" not in facts(tmp_path / "ids.ivecs")[1]


def test_records_of_evaluations_and_searches_say_what_came_out(tmp_path):
    codec = {"path": "run/codec", "model": {"outer_skip": True}}
    methods = {"codec": {"mse": 1234.5, "recall_at_1": 0.5}, "pq": {"mse": 2000.0, "recall_at_1": None}}
    record = {"codec": codec, "data": {"name": "photo_sift"}, "methods": methods, "command": "qinco evaluate"}
    (tmp_path / "metrics.json").write_text(json.dumps(record))
    what, lines = facts(tmp_path)
    assert what == "evaluation"
    assert (lines["QINCo2"], lines["PQ"]) == ("MSE 1,234.5, R@1 50.0 %", "MSE 2,000")
    (tmp_path / "metrics.json").unlink()
    points = [{"recall_at_1": 0.3, "queries_per_s": 9.0}, {"recall_at_1": 0.4, "queries_per_s": 5000.0}]
    engines = {"qinco": {"points": points, "best": {"1": 1}}}
    (tmp_path / "search.json").write_text(
        json.dumps({"index": {"path": "index"}, "data": {"name": "files"}, "engines": engines})
    )
    what, lines = facts(tmp_path)
    assert (what, lines["qinco, R@1"]) == ("search", "40.0 % at 5,000 queries/s, the most of 2 points")


def test_damage_that_headers_tell_is_one_line(own, refused):
    weights = own / "run" / "codec" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert f"{weights} is damaged" in refused("info", str(own / "run" / "codec"))
    lists = own / "index" / "index.faiss"
    lists.write_bytes(lists.read_bytes()[:-1])
    assert f"{lists} is damaged" in refused("info", str(own / "index"))
    (own / "run" / "summary.json").write_text("{")
    assert "summary.json is damaged" in refused("info", str(own / "run"))
    shutil.rmtree(own / "codes.h5.shards")
    assert "the file of this shard is missing" in refused("info", str(own / "codes.h5"))


def test_what_is_nothing_of_ours_is_one_line(made, refused):
    assert refused("info", "nope") == "nope: no such file or folder"
    assert "part of what lies in its folder" in refused("info", str(made / "run" / "codec" / "config.json"))
    assert "unknown suffix" in refused("info", __file__)


def test_the_command_prints_a_line_for_each_fact(made, qinco: Qinco):
    outcome = qinco("info", str(made / "base.npy"))
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == f"{made / 'base.npy'}: vectors"
    assert "  rows   600" in outcome.out.splitlines()
