"""`plan`: a record that agrees with itself, whether the data is there or not, and one line for every mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.commands.plan import plan
from qinco_lit.planning import plan as planning
from qinco_lit.planning.plan import facts_of_file
from qinco_lit.quantizers import build_quantizer
from qinco_lit.training.recipe import Recipe
from qinco_lit.vectors import open_vectors, write_vectors
from qinco_lit.vectors.data_facts import DataFacts
from tests.models import random_quantizer
from tests.quantizers.products import random_product
from tests.training.recipes import RECIPE

DIM = 6
MODEL = {
    "num_steps": 3, "codebook_size": 16, "embed_dim": 8, "hidden_dim": 8, "num_blocks": 1,
    "num_candidates": 4, "beam_size": 3,
}  # fmt: skip
ABSENT = DataFacts("absent", DIM, "uint8", 10**9, None, 10**7, 132 * 10**9, None)
# not ours to freeze, or as many as the model and the machine have
_OPEN = ("versions.", "hardware.", "arithmetic.", "model.config.")

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(**options: Any) -> dict[str, Any]:
        given = {"data": ABSENT, "recipe": RECIPE, "seconds": 0.02, "device": "cpu", "num_threads": 1, **options}
        given.setdefault("model", None if "codec_dir" in given else MODEL)
        return plan(output_dir=tmp_path / "out", **given)

    return call


@pytest.fixture
def vectors_path(tmp_path: Path) -> Path:
    rows = np.random.default_rng(1).normal(size=(500, DIM)).astype(np.float32)
    write_vectors(tmp_path / "base.fvecs", rows)
    return tmp_path / "base.fvecs"


def _codec(folder: Path, **changes: Any) -> Path:
    Codec(random_quantizer(DIM, **{**MODEL, **changes})).save(folder)
    return folder


def _names(values: Any, prefix: str = "") -> set[str]:
    if isinstance(values, list):
        return {name for value in values for name in _names(value, f"{prefix}[].")}
    if not isinstance(values, dict):
        return {prefix.rstrip(".")}
    return {name for key, value in values.items() for name in _names(value, f"{prefix}{key}.")}


def test_frozen_schema(run: Run, tmp_path: Path):
    record = run()
    names = sorted(name for name in _names(record) if not name.startswith(_OPEN))
    golden = Path(__file__).with_name("plan_schema.txt")
    assert "\n".join(names) + "\n" == golden.read_text(), (
        "plan.json changed: raise SCHEMA_VERSION, tell docs/scaling.md"
    )
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == record


@pytest.mark.parametrize("num_devices", [1, 8])
def test_a_set_without_files_is_planned_on_random_vectors(run: Run, tmp_path: Path, num_devices: int):
    record = run(num_devices=num_devices, max_epochs=5)
    measured, times = record["measured"], record["times"]
    for work, rate, rows in [
        ("encode", "encode", 10**9),
        ("decode", "decode", 10**9),
        ("epoch", "training", 10**7),
        ("training", "training", 5 * 10**7),
    ]:
        rates = measured[rate]
        assert times[work]["seconds"] == pytest.approx(rows / rates["vectors_per_s"] / num_devices)
        assert times[work]["at_least_s"] <= times[work]["seconds"] <= times[work]["at_most_s"]
        assert times[work]["extrapolated_by"] == pytest.approx(rows / (rates["rows"] * rates["repeats"]))
        assert rates["repeats"] >= 3
    assert measured["training"]["rows"] <= measured["training"]["batch_size"] == RECIPE["batch_size"]
    assert measured["read_vectors_per_s"] is None
    assert record["data"]["measured_on"] is None
    assert record["disk"]["codes_bytes"] == 3 * 10**9
    assert record["disk"]["vectors_file_bytes"] == 132 * 10**9
    assert record["shards"]["number"] == 954
    text = (tmp_path / "out" / "plan.md").read_text()
    assert "random uint8 vectors of dimension 6 (no file of the set is here), with random weights" in text
    assert "How many training vectors there are is not known: an epoch is taken to have 10,000,000." in text
    assert f"Assumed: {num_devices} device(s) like this one" in text


def test_a_file_is_measured_with_a_codec(run: Run, vectors_path: Path, tmp_path: Path):
    facts = facts_of_file(open_vectors(vectors_path))
    codec_dir = _codec(tmp_path / "codec")
    record = run(data=facts, codec_dir=codec_dir, beam_size=2, candidate_budget=4, precision="float32")
    assert record["data"]["measured_on"] == str(vectors_path)
    assert record["data"]["num_rows"] == record["data"]["num_train"] == record["data"]["epoch_size"] == 500
    assert record["measured"]["read_vectors_per_s"] > 0
    assert record["model"]["codec"] == str(codec_dir)
    settings = record["settings"]
    assert settings["search"] == {"beam_size": 2, "num_candidates": None, "candidate_budget": 4}
    assert settings["training_search"] == {"beam_size": 3, "num_candidates": 4, "candidate_budget": None}
    assert (settings["precision"], settings["num_threads"]) == ("float32", 1)
    assert [line["option"] for line in record["doublings"]] == [
        "beam_size", "candidate_budget", "num_candidates", "num_devices", "num_rows",
    ]  # fmt: skip
    assert record["disk"]["vectors_file_bytes"] == vectors_path.stat().st_size
    assert (
        f"the first vectors of {vectors_path}, with the codec {codec_dir}" in (tmp_path / "out" / "plan.md").read_text()
    )


def test_a_codec_in_memory_is_planned_with_and_nothing_is_written(
    vectors_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    facts, codec = facts_of_file(open_vectors(vectors_path)), Codec(random_quantizer(DIM, **MODEL))
    record = planning.plan(facts, recipe=Recipe(**RECIPE), codec=codec, seconds=0.02, num_threads=1, progress=False)
    assert record["model"] == {**record["model"], "codec": None, "config": codec.quantizer.config}
    assert record["times"]["encode"]["rows"] == 500
    assert (list((tmp_path / "empty").iterdir()), capfd.readouterr()) == ([], ("", ""))
    for given in ({"codec": codec, "model": MODEL}, {}):
        with pytest.raises(ValueError, match=r"^give either codec=, a trained one, or model=, the sizes of one$"):
            planning.plan(facts, recipe=Recipe(**RECIPE), **given)


def test_num_rows_takes_the_place_of_what_is_known(run: Run, vectors_path: Path):
    record = run(data=facts_of_file(open_vectors(vectors_path)), num_rows=10**6)
    assert record["data"]["num_rows"] == record["times"]["encode"]["rows"] == 10**6
    assert record["disk"]["vectors_bytes"] == 10**6 * 4 * DIM
    assert record["disk"]["vectors_file_bytes"] == vectors_path.stat().st_size * 10**6 // 500


def test_all_codewords_cannot_be_doubled(run: Run):
    record = run(model={**MODEL, "num_candidates": 0, "beam_size": 1})
    assert [line["option"] for line in record["doublings"]] == ["beam_size", "num_devices", "num_rows"]


def test_a_codec_with_lists_has_list_ids(run: Run, tmp_path: Path):
    record = run(codec_dir=_codec(tmp_path / "codec", num_lists=5))
    assert record["times"]["training"]["seconds"] > 0
    assert (record["disk"]["list_ids_bytes"], record["disk"]["bytes_per_vector"]) == (4 * 10**9, 7)
    assert "| list ids | 4.00 GB |" in (tmp_path / "out" / "plan.md").read_text()


@pytest.mark.parametrize("num_lists", [None, 5])
def test_a_model_of_parts_is_that_of_its_parts(run: Run, tmp_path: Path, num_lists: int | None):
    parts = {"num_parts": 2, "part_dims": [4, 2], "part_steps": [2, 1], "opq": True}
    codec = Codec(random_product(DIM, **{**MODEL, **parts}, num_lists=num_lists))
    codec.save(tmp_path / "codec")
    record = run(codec_dir=tmp_path / "codec")
    alone = [
        build_quantizer(dim, **{**MODEL, "num_steps": steps}, num_lists=num_lists) for dim, steps in ((4, 2), (2, 1))
    ]
    count = sum(weight.numel() for part in alone for weight in part.parameters())
    assert record["model"]["num_parameters"] == count
    frozen = sum(buffer.numel() for part in alone for buffer in part.buffers())
    assert record["memory"]["weights_bytes"] == 4 * (count + frozen + DIM * DIM)
    assert record["disk"]["codes_bytes"] == 3 * 10**9
    assert record["disk"]["list_ids_bytes"] == (0 if num_lists is None else 4 * 10**9)
    assert record["settings"]["training_search"] == {"beam_size": 3, "num_candidates": 4, "candidate_budget": None}
    assert [line["option"] for line in record["doublings"]] == [
        "beam_size",
        "num_candidates",
        "num_devices",
        "num_rows",
    ]
    if num_lists is None:
        untrained = run(model={**MODEL, **parts})
        assert untrained["model"]["num_parameters"] == count
        assert untrained["model"]["config"] == record["model"]["config"]


def test_a_low_rank_saves_parameters(run: Run):
    full, low = (run(model={**MODEL, "concat_rank": rank})["model"] for rank in (None, 2))
    # 8 + 6 to 8 and a bias, or through 2; in both steps that have a network
    assert full["num_parameters"] - low["num_parameters"] == 2 * ((14 * 8 + 8) - 2 * (14 + 8))


def test_mistakes_are_one_line_and_leave_nothing(run: Run, tmp_path: Path):
    codec_dir = _codec(tmp_path / "codec")
    unknown = DataFacts("mine", DIM, "uint8", None, None, 10, None, None)
    other = DataFacts("wide", 9, "uint8", 10, None, 10, None, None)
    for options, message in [
        ({"data": unknown}, "data set mine: how many vectors it has is not known; give num_rows=N"),
        ({"data": other, "codec_dir": codec_dir}, f"{codec_dir} encodes vectors of dimension 6, data set wide has 9"),
        ({"num_devices": 0}, "num_devices=0: give at least 1"),
        ({"num_rows": 0}, "num_rows=0: give at least 1"),
        ({"max_epochs": 0}, "max_epochs=0: give at least 1"),
        ({"seconds": 0}, "seconds=0: give more than 0"),
        ({"beam_size": 0}, "beam_size=0 must be at least 1"),
    ]:
        with pytest.raises(ValueError) as error:
            run(**options)
        assert str(error.value) == message
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(codec_dir=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_a_file_with_nan_is_named(run: Run, tmp_path: Path):
    write_vectors(tmp_path / "bad.fvecs", np.full((20, DIM), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"bad.fvecs: the first 20 vectors hold NaN or infinity: repair the file$"):
        run(data=facts_of_file(open_vectors(tmp_path / "bad.fvecs")))
