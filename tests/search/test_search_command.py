"""`qinco search`: what it writes is what was measured, mistakes are one line, and a second call goes on."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.commands.search import search
from qinco_lit.devices import num_threads_in_use
from qinco_lit.metrics import recall_at
from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.points import comparison, explore
from qinco_lit.search.points.faiss_engines import METHODS
from qinco_lit.search.searcher import Searcher
from tests.search.indexes import DIM, LISTS, Indexed, indexed

ROWS = 400
QUICK = {
    "nprobe": [1, 4], "ef_search": [12], "num_additive": [16, 64], "num_pairwise": [4, 0],
    "num_threads": 1, "repeats": 1, "latency_queries": 5, "batch_size": 16,
}  # fmt: skip


class Data:
    """What docs/architecture.md asks of a data module, in memory."""

    name = "normal"

    def __init__(self, given: Indexed, **changes: Any) -> None:
        self.metric, self.dim = given.bundle.metric, DIM
        self.database, self.queries = given.x, given.queries
        self.train_vectors = np.tile(given.x, (2, 1))
        for name, value in changes.items():
            setattr(self, name, value)

    def prepare_data(self) -> None:
        self.prepared = True

    def setup(self, stage: str) -> None:
        assert self.prepared

    @property
    def ground_truth(self) -> np.ndarray:
        if self.metric == "l2":
            scores = np.square(self.queries[:, None].astype(np.float64) - self.database).sum(axis=2)
        else:
            scores = -self.queries @ self.database.T
        return np.argsort(scores, axis=1, kind="stable")[:, :10].astype(np.int64)


def positions(metric: str = "l2", *, pairwise: bool = True) -> Indexed:
    """An index whose ids are positions."""
    given = indexed(ROWS, metric=metric, pairwise=pairwise)
    searcher = Searcher(given.bundle)
    scan = searcher._writable()
    scan.remove(given.ids)
    scan.add(given.list_ids, given.codes, np.arange(ROWS))
    given.ids = np.arange(ROWS)
    given.bundle = searcher  # type: ignore[assignment]
    return given


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    positions().bundle.save(folder)  # type: ignore[attr-defined]
    return folder


@pytest.fixture(scope="module")
def given() -> Indexed:
    return indexed(ROWS)


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than all the rest; where files are looked at they are drawn."""
    if "files" not in request.node.name:
        monkeypatch.setattr("qinco_lit.commands.search.figure_bytes", lambda *_: b"")


@pytest.fixture
def run(index_dir: Path, given: Indexed, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(**options: Any) -> dict[str, Any]:
        defaults = {
            "index_dir": index_dir, "data": Data(given), "output_dir": tmp_path / "out",
            "cache_dir": tmp_path / "cache",
        }  # fmt: skip
        return search(**{**defaults, **QUICK, **options})

    return call


def test_points_are_what_the_searcher_finds(run: Callable[..., Any], index_dir: Path, given: Indexed) -> None:
    record = run()
    searcher, truth = Searcher.load(index_dir, num_threads=1), Data(given).ground_truth
    points = record["engines"]["qinco"]["points"]
    assert record["engines"]["qinco"]["num_candidates"] == 8
    assert len(points) + record["engines"]["qinco"]["num_skipped"] == 8
    for point in points:
        parameters = point["parameters"]
        k = parameters["num_pairwise"] or parameters["num_additive"]
        _, ids = searcher.search(given.queries, k, **parameters)
        padded = np.hstack([ids, np.full((len(ids), 100), -1)])
        for at, value in recall_at(padded, truth, (1, 10, 100)).items():
            assert point[f"recall_at_{at}"] == value
        trace = searcher.trace(given.queries, k, **parameters)
        assert list(point["stage_s"]) == list(trace.stages)
        for name, stage in trace.stages.items():
            assert point["stage_recall_at_1"][name] == recall_at(stage.ids, truth, [1])[1]


def test_files_hold_the_record(run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    returned = run(baselines=["ivf_pq"])
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "points.jsonl", "search.csv", "search.json", "search.md", "search.png", "search.svg",
    ]  # fmt: skip
    record = json.loads((out / "search.json").read_text())
    assert record == json.loads(json.dumps(returned))
    rows = list(csv.DictReader((out / "search.csv").read_text().splitlines()))
    points = [(name, p) for name, engine in record["engines"].items() for p in engine["points"]]
    assert len(rows) == len(points) == len((out / "points.jsonl").read_text().splitlines()) - 1
    for row, (name, point) in zip(rows, points, strict=True):
        assert row["engine"] == name
        assert float(row["recall_at_10"]) == point["recall_at_10"]
        assert float(row["queries_per_s"]) == point["queries_per_s"]
        assert {key: row[key] for key in point["parameters"]} == {k: str(v) for k, v in point["parameters"].items()}
    text, printed = (out / "search.md").read_text(), capsys.readouterr().out
    for part in ("Pareto front of QINCo2 (2+2 B)", "within 1 point", "Stages of the point", "queries/s"):
        assert part in text
        assert part in printed
    assert "Pareto front of IVF-PQ (2 B)" in text
    assert str(out) in printed


def test_fronts_and_marks_of_the_record(run: Callable[..., Any]) -> None:
    record = run(baselines=["ivf_rq"])
    for engine in record["engines"].values():
        speeds = [point["queries_per_s"] for point in engine["points"]]
        assert speeds == sorted(speeds, reverse=True)
        for k in ("1", "10", "100"):
            recalls = [point[f"recall_at_{k}"] for point in engine["points"]]
            front = engine["fronts"][k]
            assert [recalls[place] for place in front] == sorted({recalls[place] for place in front})
            for place in range(len(speeds)):
                dominated = any(
                    speeds[other] >= speeds[place] and recalls[other] >= recalls[place] for other in range(place)
                )
                assert (place in front) == (not dominated)
            assert recalls[engine["best"][k]] == max(recalls)
            near = engine["within_a_point_of_the_best"][k]
            assert recalls[near] >= max(recalls) - 0.01 - 1e-6
            assert all(recall < max(recalls) - 0.01 for recall in recalls[:near])


def test_the_fields_of_the_record_are_frozen(run: Callable[..., Any]) -> None:
    """A new or renamed field breaks readers of search.json: raise SCHEMA_VERSION with it."""
    record = run(baselines=["rabitq"])
    assert comparison.SCHEMA_VERSION == record["schema_version"] == 2
    assert set(record) == {
        "schema_version", "created", "index", "data", "settings", "num_threads", "command", "versions",
        "git_revision", "hardware", "arithmetic", "engines",
    }  # fmt: skip
    assert set(record["index"]) == {
        "path", "dim", "metric", "num_vectors", "num_lists", "bits_per_vector", "model", "pairwise_bytes",
    }  # fmt: skip
    assert set(record["data"]) == {"name", "dim", "metric", "num_train", "num_database", "num_queries"}
    assert set(record["settings"]) == {
        "recall_at", "batch_size", "warmup", "repeats", "latency_queries", "strategy", "max_points", "seed", "mmap",
        "precision",
    }  # fmt: skip
    for engine in record["engines"].values():
        assert set(engine) == {
            "bytes_per_vector", "build", "parameters", "num_candidates", "num_skipped", "points", "fronts", "best",
            "within_a_point_of_the_best",
        }  # fmt: skip
        assert set(engine["points"][0]) == {
            "engine", "parameters", "recall_at_1", "recall_at_10", "recall_at_100", "queries_per_s",
            "queries_per_s_lowest", "queries_per_s_highest", "latency_median_s", "latency_p95_s", "stage_s",
            "stage_recall_at_1", "measured_at",
        }  # fmt: skip
    assert record["engines"]["qinco"]["build"] is None
    build = record["engines"]["rabitq"]["build"]
    assert set(build) == {"settings", "num_training_rows", "build_s", "from_cache"}
    assert record["num_threads"] == {"torch": 1, "faiss": 1}
    assert record["data"]["num_queries"] == 40


def test_a_second_call_measures_only_what_is_missing(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(baselines=["ivf_pq"])
    path = tmp_path / "out" / "points.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:40])  # killed while it wrote the third point
    measured = []
    measure = explore.measure_point

    def counted(engine: Any, parameters: Any, *rest: Any) -> Any:
        measured.append((engine.name, parameters))
        return measure(engine, parameters, *rest)

    monkeypatch.setattr(explore, "measure_point", counted)
    second = run(baselines=["ivf_pq"])
    stored = [json.loads(line)["parameters"] for line in lines[1:3]]
    assert not [parameters for _, parameters in measured if parameters in stored]
    for name, engine in second["engines"].items():
        kept = [p for p in first["engines"][name]["points"] if p["engine"] == "qinco" and p["parameters"] in stored]
        for point in kept:
            assert point in engine["points"]
        assert engine["num_candidates"] == first["engines"][name]["num_candidates"]
    measured.clear()
    third = run(baselines=["ivf_pq"])
    assert measured == []
    assert third["engines"]["qinco"]["points"] == second["engines"]["qinco"]["points"]
    with pytest.raises(ValueError, match=r"points.jsonl holds points with repeats=1, not 2: choose another folder"):
        run(repeats=2)


def test_all_baselines_next_to_the_index(run: Callable[..., Any], tmp_path: Path) -> None:
    record = run(baselines=list(METHODS))
    assert list(record["engines"]) == ["qinco", *METHODS]
    notes = (tmp_path / "out" / "search.md").read_text()
    assert "More bytes than the index has: RaBitQ (2+8 B), RaBitQ of 2 bits (4+20 B)." in notes
    for name in METHODS:
        sizes = record["engines"][name]["bytes_per_vector"]
        codes = sum(size for part, size in sizes.items() if part in ("codes", "re-rank codes"))
        assert codes == (4 if name == "rabitq2" else 2)
        assert max(point["recall_at_100"] for point in record["engines"][name]["points"]) > 0.5


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_other_metrics(metric: str, run: Callable[..., Any], tmp_path: Path) -> None:
    given = positions(metric)
    given.bundle.save(tmp_path / "index")  # type: ignore[attr-defined]
    data = Data(indexed(ROWS, metric=metric))
    record = run(index_dir=tmp_path / "index", data=data, nprobe=[LISTS], baselines=["ivf_pq", "ivf_pqfs"])
    assert record["data"]["metric"] == record["index"]["metric"] == metric
    for engine in record["engines"].values():
        assert max(point["recall_at_100"] for point in engine["points"]) > 0.7


def test_random_points_are_some_of_the_grid(run: Callable[..., Any]) -> None:
    record = run(strategy="random", max_points=3)
    engine = record["engines"]["qinco"]
    assert engine["num_candidates"] == 3
    assert 2 <= len(engine["points"]) <= 3


def test_mapped_lists_find_the_same(run: Callable[..., Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"nprobe": [4], "num_additive": [64], "num_pairwise": [0]}
    in_memory, mapped = (run(mmap=mmap, output_dir=tmp_path / str(mmap), **options) for mmap in (False, True))
    first, second = (record["engines"]["qinco"] for record in (in_memory, mapped))
    assert second["bytes_per_vector"] == {"codes": 2, "norm": 1}
    assert abs(first["points"][0]["recall_at_10"] - second["points"][0]["recall_at_10"]) <= 0.05


def test_threads_are_restored(run: Callable[..., Any]) -> None:
    before = num_threads_in_use()
    run(num_threads=2)
    assert num_threads_in_use() == before


def test_wandb_gets_the_points_and_the_fronts(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    logged: dict[str, Any] = {}
    summary: dict[str, Any] = {}

    class Run:
        def __init__(self) -> None:
            self.experiment, self.summary = self, summary

        def log(self, values: dict[str, Any]) -> None:
            logged.update(values)

    monkeypatch.setattr("qinco_lit.training.wandb_run.start_wandb", lambda *_, **__: Run())
    finished = []
    monkeypatch.setattr("qinco_lit.training.wandb_run.finish_wandb", lambda runs, state: finished.append(state))
    record = run(logger={"mode": "offline"})
    points = record["engines"]["qinco"]["points"]
    assert isinstance(logged["search/points"], wandb.Table)
    assert len(logged["search/points"].data) == len(points)
    on_a_front = {place for front in record["engines"]["qinco"]["fronts"].values() for place in front}
    assert len(logged["search/fronts"].data) == len(on_a_front)
    assert summary["search/qinco/recall_at_1"] == max(point["recall_at_1"] for point in points)
    assert finished == ["finished"]
    monkeypatch.setattr(explore, "measure_point", None)
    with pytest.raises(TypeError):
        run(logger={"mode": "offline"}, nprobe=[2])
    assert finished == ["finished", "failed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baselines": ["ivfpq"]}, r"unknown baseline ivfpq \(did you mean ivf_pq\?\); choose from: ivf_pq, .*rabitq2"),
        (
            {"strategy": "random"},
            r"strategy=random draws max_points=N of the grid: give both, or neither for all of it",
        ),
        ({"max_points": 3}, r"strategy=random draws max_points=N of the grid: give both, .*"),
        ({"max_points": 0, "strategy": "random"}, r"max_points=0: give at least 1"),
        ({"repeats": 0}, r"repeats=0: give at least 1"),
        ({"warmup": -1}, r"warmup=-1: give at least 0"),
        ({"num_queries": 0}, r"num_queries=0: give at least 1"),
        ({"recall_at": []}, r"recall_at=\[\]: give at least one k"),
        ({"recall_at": [10, 0]}, r"recall_at=0: give at least 1"),
        ({"nprobe": [13]}, r"nprobe=13: the index has 12 lists"),
    ],
)
def test_impossible_options_are_one_line_and_leave_no_folder(
    run: Callable[..., Any], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        run(**options)
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_other_vectors_is_refused(run: Callable[..., Any], given: Indexed, tmp_path: Path) -> None:
    for changes, message in (
        ({"queries": None}, r"^data set normal has no queries, so no recall: give data.queries=FILE$"),
        ({"database": given.x[:, :9]}, r"index holds vectors of dimension 16, data set normal has 9$"),
        ({"metric": "ip"}, r"index was built for metric=l2, data set normal has data.metric=ip$"),
        ({"database": given.x[:399]}, r"index holds 400 vectors, the database of normal has 399: recall needs .*$"),
    ):
        with pytest.raises(ValueError, match=message):
            run(data=Data(given, **changes))
    with pytest.raises(ValueError, match=r"^unknown device gpu; choose from: auto, cpu, cuda, cuda:N$"):
        run(device="gpu")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(index_dir=tmp_path / "nowhere")
    bundles.save(indexed(ROWS).bundle, tmp_path / "own_ids")
    with pytest.raises(ValueError, match=r"own_ids holds ids that are not positions in its vectors .*"):
        run(index_dir=tmp_path / "own_ids")
    assert not (tmp_path / "out").exists()
