"""`evaluate num_steps=`, `rate=`, `dedicated=`: what a codec is worth at each number of codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.evaluation.codec_quantizer import CodecQuantizer
from qinco_lit.evaluation.measure import RECALL_AT, Meter, TestSet, blocks
from qinco_lit.evaluation.rate_curve import measure_rate_curve
from qinco_lit.progress import Progress
from qinco_lit.quantizers import build_quantizer
from tests.decoding import decode_distinct
from tests.evaluate.conftest import DIM, NEAREST, SMALL, STEPS, Data, ready_data, saved_codec, small_codec
from tests.models import random_quantizer

RECALLS = [f"recall_at_{k}" for k in RECALL_AT]
SPEEDS = {"encode_vectors_per_s", "decode_vectors_per_s"}
FIGURES = {"mse", "mse_per_step", *RECALLS, "entropy_bits", "unused_share"}

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and have tests of their own."""
    monkeypatch.setattr("qinco_lit.commands.evaluate.figure_bytes", lambda _, suffix: suffix.encode())


def _test_set(data: Data) -> TestSet:
    return TestSet(data.database, data.queries, data.ground_truth, data.metric)


def _without_speeds(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in SPEEDS}


def _slow(data: Data, x_hat: Any) -> dict[str, float]:
    """Error and recalls of reconstructions of the database, without blocks; equally near ones are ordered by id."""
    squared = np.square(data.database.astype(np.float64) - x_hat).sum(axis=1)
    found = NEAREST[data.metric](data.queries, x_hat)
    hits = {f"recall_at_{k}": (found[:, :k] == data.ground_truth[:, :1]).any(axis=1).mean() for k in RECALL_AT}
    return {"mse": squared.mean(), **hits}


def _check(figures: dict[str, Any], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-6), name


# --- what is measured ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_all_three_ways_equal_a_second_path(run: Run, codec_dir: Path, tmp_path: Path, metric: str) -> None:
    other = saved_codec(tmp_path / "two" / "codec", 2, 1)
    record = run(rate="all", dedicated=[tmp_path / "two"], data=Data(metric=metric), batch_size=64)
    assert record == json.loads((tmp_path / "out" / "metrics.json").read_text())
    data, codec, trained = ready_data(metric=metric), Codec.load(codec_dir), Codec.load(other)
    all_codes = codec.encode(data.database)
    points = record["rates"]["points"]
    assert [point["num_steps"] for point in points] == [1, 2, 3]
    assert [point["bytes_per_vector"] for point in points] == [0.5, 1, 1.5]  # codes of 4 bits
    for num_steps, point in enumerate(points, start=1):
        _check(point["prefix"], _slow(data, decode_distinct(codec, all_codes[:, :num_steps])))
        own = codec.encode(data.database, num_steps=num_steps)
        _check(point["encoded"], _slow(data, decode_distinct(codec, own)))
        assert len(point["encoded"]["mse_per_step"]) == num_steps
    assert [point["dedicated"] is None for point in points] == [True, False, True]
    _check(points[1]["dedicated"], _slow(data, decode_distinct(trained, trained.encode(data.database))))
    [facts] = record["rates"]["dedicated"]
    assert (facts["path"], facts["num_steps"], facts["weights_sha256"]) == (str(other), 2, trained.weights_sha256)


def test_at_all_codes_the_ways_are_one_and_the_codec_is_measured_as_without_rates(run: Run) -> None:
    plain, record = run(), run(rate="all")
    assert _without_speeds(record["methods"]["codec"]) == _without_speeds(plain["methods"]["codec"])
    last = record["rates"]["points"][-1]
    assert last["encoded"].items() <= record["methods"]["codec"].items()
    assert last["prefix"].items() <= record["methods"]["codec"].items()
    for point, mse in zip(record["rates"]["points"], record["methods"]["codec"]["mse_per_step"], strict=True):
        assert point["prefix"]["mse"] == mse


def test_a_shorter_encoding_is_that_of_num_steps_and_of_the_truncated_codec(
    run: Run, codec_dir: Path, tmp_path: Path
) -> None:
    points = run(rate="all")["rates"]["points"]
    for num_steps in (1, 2):
        Codec.load(codec_dir).truncated(num_steps).save(tmp_path / f"short-{num_steps}")
        asked, cut = run(num_steps=num_steps), run(codec_dir=tmp_path / f"short-{num_steps}")
        encoded = _without_speeds(points[num_steps - 1]["encoded"])
        assert encoded.items() <= asked["methods"]["codec"].items()
        assert _without_speeds(asked["methods"]["codec"]) == _without_speeds(cut["methods"]["codec"])
        assert asked["codec"]["bits_per_vector"] == cut["codec"]["bits_per_vector"] == 4 * num_steps
        assert (asked["codec"]["num_steps"], asked["codec"]["model"]["num_steps"]) == (num_steps, STEPS)
        truncated_from = {"weights_sha256": asked["codec"]["weights_sha256"], "num_steps": STEPS}
        assert (asked["codec"]["truncated_from"], cut["codec"]["truncated_from"]) == (None, truncated_from)


def test_baselines_have_the_rate_of_the_codes_that_are_measured(run: Run, tmp_path: Path) -> None:
    record = run(num_steps=2, baselines=["pq"])
    assert [record["methods"][name]["bytes_per_vector"] for name in ("codec", "pq")] == [1, 1]
    assert "Codec: 2 of its 3 codes, beam 3" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("kind", ["ivf", "product", "parts"])
def test_models_of_every_kind_have_rates(run: Run, tmp_path: Path, kind: str) -> None:
    data = ready_data()
    if kind == "ivf":
        codec = small_codec(3, num_lists=5)
    else:
        order = "steps" if kind == "product" else "parts"
        product = build_quantizer(DIM, num_parts=2, num_steps=4, opq=True, order=order, **SMALL)
        for number, part in enumerate(product.parts):
            part.load_state_dict(random_quantizer(DIM // 2, seed=number, num_steps=2, **SMALL).parts[0].state_dict())
        product.rotation.copy_(product.rotation.flip(0))
        codec = Codec(product)
    codec.save(tmp_path / "other")
    points = run(codec_dir=tmp_path / "other", rate="all")["rates"]["points"]
    lists, all_codes = _coded(codec, data.database)
    for num_steps, point in enumerate(points, start=1):
        _check(point["prefix"], _slow(data, decode_distinct(codec, all_codes[:, :num_steps], **lists)))
        own_lists, own = _coded(codec, data.database, num_steps=num_steps)
        _check(point["encoded"], _slow(data, decode_distinct(codec, own, **own_lists)))


def _coded(codec: Codec, x: Any, **options: Any) -> tuple[dict[str, Any], Any]:
    codes = codec.encode(x, **options)
    return ({}, codes) if codec.num_lists is None else ({"list_ids": codes[0]}, codes[1])


def test_a_greedy_codec_finds_the_same_codes_for_every_rate(run: Run, tmp_path: Path) -> None:
    saved_codec(tmp_path / "qinco1", 3, num_candidates=0, beam_size=1, outer_skip=False)
    for point in run(codec_dir=tmp_path / "qinco1", rate="all")["rates"]["points"]:
        assert point["prefix"].items() <= point["encoded"].items()


def test_a_given_search_holds_for_every_encoding_and_the_dedicated_models(run: Run, tmp_path: Path) -> None:
    saved_codec(tmp_path / "two", 2, 1, beam_size=2)
    record = run(rate=[2], dedicated=[tmp_path / "two"], beam_size=16, num_candidates=0)
    [facts] = record["rates"]["dedicated"]
    for searched in (record["codec"], facts):
        assert (searched["beam_size"], searched["num_candidates"]) == (16, 0)
    narrow = run(rate=[2], dedicated=[tmp_path / "two"], beam_size=1, num_candidates=1)["rates"]["points"][0]
    wide = record["rates"]["points"][0]
    for way in ("encoded", "dedicated"):
        assert wide[way]["mse"] < narrow[way]["mse"]


# --- how it is measured -------------------------------------------------------------------------------------------


class Counted:
    """Rows that count how often each was read."""

    def __init__(self, rows: Any) -> None:
        self._rows, self.shape, self.times = rows, rows.shape, np.zeros(len(rows), dtype=int)

    def __getitem__(self, key: slice) -> Any:
        self.times[key] += 1
        return self._rows[key]


def test_figures_do_not_depend_on_the_blocks_and_every_vector_is_read_once() -> None:
    data, results = ready_data(), []
    quantizer = CodecQuantizer(small_codec(3))
    dedicated = {2: CodecQuantizer(small_codec(2, 1))}
    for batch_size in (250, 64):
        database = Counted(data.database)
        test_set = TestSet(database, data.queries, data.ground_truth, "l2")
        with Progress("codes", show=False) as progress:
            results.append(measure_rate_curve(quantizer, [1, 2, 3], dedicated, test_set, batch_size, progress))
            assert progress.line(1.0).startswith(f"2,000 of {250 * (3 + 1 + 2 + 2):,} codes (100 %)")
        assert (database.times == 1).all()
    (whole, rates), (other_whole, other_rates) = results
    for one, other in zip([whole, *_all(rates)], [other_whole, *_all(other_rates)], strict=True):
        for name in FIGURES & set(one):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-12)


class Rounded:
    """A quantizer whose reconstructions are rounded otherwise at every place, as matrix products are on some CPUs."""

    def __init__(self, quantizer: CodecQuantizer) -> None:
        self._quantizer, self._rng = quantizer, np.random.default_rng(0)
        self.num_steps, self.codebook_size = quantizer.num_steps, quantizer.codebook_size
        self.encode = quantizer.encode

    def decode(self, codes: Any) -> Any:
        return self._rounded(self._quantizer.decode(codes))

    def decode_steps(self, codes: Any) -> Any:
        return map(self._rounded, self._quantizer.decode_steps(codes))

    def _rounded(self, x_hat: Any) -> Any:
        return x_hat * (1 + np.float32(2e-7) * self._rng.integers(-1, 2, size=x_hat.shape).astype(np.float32))


@pytest.mark.parametrize("lists", [{}, {"num_lists": 3}])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_recalls_do_not_depend_on_how_equal_codes_are_rounded(metric: str, lists: dict[str, int]) -> None:
    data = ready_data(metric=metric)
    quantizer = CodecQuantizer(small_codec(2, **lists))
    for batch_size in (250, 64, 7):
        meters = [Meter(each, _test_set(data), prefixes=[1]) for each in (quantizer, Rounded(quantizer))]
        for meter in meters:
            for start, rows in blocks(data.database, batch_size):
                meter.add(rows, start)
        for figures in ([meter.figures() for meter in meters], [meter.prefix_figures(1) for meter in meters]):
            exact, rounded = figures
            assert {name: exact[name] for name in RECALLS} == {name: rounded[name] for name in RECALLS}


def _all(rates: dict[str, Any]) -> list[dict[str, Any]]:
    ways = ("prefix", "encoded", "dedicated")
    return [point[way] for point in rates["points"] for way in ways if point[way] is not None]


def test_chosen_rates_are_those_of_all(run: Run) -> None:
    everything, some = run(rate="all")["rates"]["points"], run(rate=[3, 1, 3])["rates"]["points"]
    assert [point["num_steps"] for point in some] == [1, 3]
    for point in some:
        same = everything[point["num_steps"] - 1]
        assert point["prefix"] == same["prefix"]
        assert _without_speeds(point["encoded"]) == _without_speeds(same["encoded"])


def test_without_queries_there_are_errors_and_no_recalls(run: Run) -> None:
    for point in run(rate="all", data=Data(with_queries=False))["rates"]["points"]:
        for way in ("prefix", "encoded"):
            assert [point[way][name] for name in RECALLS] == [None] * 3
            assert point[way]["mse"] > 0


def test_the_fields_of_rates_are_frozen(run: Run, tmp_path: Path) -> None:
    """A new or renamed field breaks readers of metrics.json: raise SCHEMA_VERSION with it."""
    saved_codec(tmp_path / "two", 2, 1)
    record = run(rate=[2], dedicated=[str(tmp_path / "two")])
    assert set(record["rates"]) == {"dedicated", "points"}
    assert set(record["rates"]["dedicated"][0]) == set(record["codec"]) - {"dim"}
    [point] = record["rates"]["points"]
    assert set(point) == {"num_steps", "bytes_per_vector", "prefix", "encoded", "dedicated"}
    assert set(point["prefix"]) == {"mse", *RECALLS}
    assert set(point["encoded"]) == set(point["dedicated"]) == FIGURES | SPEEDS


def test_results_are_written_and_told(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(rate="all")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    plots = [f"{plot}.{suffix}" for plot in ("rate_distortion", "rates") for suffix in ("png", "svg")]
    assert names == ["metrics.json", *plots, "table.md"]
    printed, table = capsys.readouterr().out, (tmp_path / "out" / "table.md").read_text()
    for text in ("One codec at every rate", "prefix of 3", "own search", "all 3"):
        assert text in printed
        assert text in table
