"""Whatever a caller's program has set, and however it writes its options: the same results, and nothing changed."""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

import qinco_lit
from qinco_lit.options import checked
from qinco_lit.training.trainer import settings_kept

ql: Any = qinco_lit  # mistakes are what is tested
X = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
OPTIONS: dict[str, Any] = {
    "num_steps": 2, "codebook_size": 8, "num_blocks": 1, "embed_dim": 8, "hidden_dim": 8, "beam_size": 2,
    "num_candidates": 4, "batch_size": 64, "max_epochs": 1, "progress": False,
}  # fmt: skip
SEARCH: dict[str, Any] = {"repeats": 1, "latency_queries": 0, "nprobe": range(1, 2), "num_additive": np.array([10])}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def results(folder: Path) -> list[Any]:
    """Of every call: what it finds."""
    folder.mkdir()
    codec = ql.train(X, **OPTIONS)
    codec.save(folder / "codec")
    codec = ql.Codec.load(folder / "codec")
    codes = codec.encode(X)
    store = ql.encode_file(codec, X, folder / "codes.h5", progress=False)
    index = ql.build_index(codec, X, progress=False, output=folder / "index")
    point = ql.explore(index, X[:5], database=X, progress=False, **SEARCH)[0]
    index.add(X[:2])
    index.remove([300, 301])
    mse = ql.evaluate(codec, X, progress=False)["methods"]["codec"]["mse"]
    arrays = [codes, codec.decode(codes), *codec.decode_steps(codes), store[:], *index.search(X[:9], k=3)]
    return [codec.identity, mse, point.recall, *(each.tolist() for each in arrays)]


def state() -> list[Any]:
    own = [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")]
    return [*own, torch.get_default_dtype(), torch.get_default_device(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize(
    "surroundings",
    [
        torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: default_dtype(torch.float64), lambda: default_dtype(torch.bfloat16), lambda: torch.device("meta"),
    ],
)  # fmt: skip
def test_what_the_caller_has_set_for_torch_changes_nothing(
    surroundings: Callable[[], AbstractContextManager[Any]], expected: list[Any], tmp_path: Path
) -> None:
    with surroundings():
        before = state()
        found = results(tmp_path / "results")
        assert state() == before
    assert found == expected


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    before = state()
    found = results(tmp_path_factory.mktemp("expected") / "results")
    assert state() == before
    return found


def test_trainings_in_threads_leave_the_process_as_it_was() -> None:
    logger, before = logging.getLogger("pytorch_lightning"), list(warnings.filters)
    level, inside, first_is_done = logger.level, threading.Event(), threading.Event()

    def second() -> None:
        with settings_kept():
            inside.set()
            first_is_done.wait(10)
            warnings.simplefilter("ignore")
            logger.setLevel(logging.CRITICAL)

    with settings_kept():
        warnings.filterwarnings("ignore", message="of the first")
        logger.setLevel(logging.ERROR)
        thread = threading.Thread(target=second)
        thread.start()
        inside.wait(10)
    first_is_done.set()
    thread.join()
    assert (logger.level, list(warnings.filters)) == (level, before)


@pytest.mark.parametrize("options", [{"num_steps": np.int64(2)}, {"max_epochs": np.int32(1), "seed": np.uint8(0)}])
def test_numbers_of_numpy_are_numbers(options: dict[str, Any], expected: list[Any]) -> None:
    assert ql.train(X, **{**OPTIONS, **options}).identity == expected[0]


def test_tensors_of_any_kind_are_vectors() -> None:
    rounded = torch.from_numpy(X).bfloat16()
    names = [
        ql.train(x, **OPTIONS).identity for x in (rounded, rounded.float(), rounded.float().requires_grad_())
    ]  # fmt: skip
    assert len(set(names)) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda codec: ql.train(X, num_steps="8"), "num_steps='8': expected an integer"),
        (lambda codec: ql.train(X, num_lists=True), "num_lists=True: expected an integer or None"),
        (lambda codec: ql.train(X, seed=None), "seed=None: expected an integer"),
        (lambda codec: ql.train(X, batch_size="64"), "batch_size='64': expected an integer"),
        (lambda codec: ql.train(X, run_dir=""), "run_dir='': name a file or folder"),
        (lambda codec: ql.train(X, devices=0), "devices=0: give auto, cpu, how many (-1: all), or a list of their"),
        (lambda codec: ql.train(X, devices="cuda:0"), "devices='cuda:0': give auto, cpu, how many"),
        (lambda codec: ql.train(None), "x is of type NoneType: give vectors (n, dim), or a file of them"),
        (lambda codec: ql.train(np.ma.masked_greater(X, 0)), "x has masked values: leave these rows out, and give"),
        (lambda codec: ql.evaluate(X, codec), "codec is of type ndarray: give a Codec, or its folder"),
        (lambda codec: ql.evaluate(codec, X, baselines="pq"), "baselines='pq': expected a list in brackets, each text"),
        (lambda codec: ql.evaluate(codec, X, rate="some"), "rate='some': expected all or a list in brackets"),
        (lambda codec: ql.encode_file(codec, X, "a.h5", merge="no"), "merge='no': expected True or False"),
        (lambda codec: ql.encode_file(codec, X, None), "output=None: expected text or a path"),
        (lambda codec: ql.build_index(codec, X, num_lists=4.0), "num_lists=4.0: expected an integer or None"),
        (lambda codec: ql.build_index(codec, X, codes=X), "codes is of type ndarray: give a store, as encode_file"),
        (lambda codec: ql.build_index(codec, X, output="."), "output=.: name a folder of its own"),
        (lambda codec: ql.explore("index", X), "searcher is of type str: give what build_index or Searcher.load"),
        (lambda codec: codec.encode(X, beam_size="2"), "beam_size='2': expected an integer or None"),
        (lambda codec: codec.truncated(True), "num_steps=True: expected an integer"),
        (lambda codec: codec.to("gpu"), "unknown device gpu; choose from: auto, cpu, cuda, cuda:N"),
        (lambda codec: ql.Codec.load(None), "directory=None: expected text or a path"),
        (lambda codec: ql.Codec("folder"), "quantizer is of type str: Codec.load(DIR) reads a folder"),
        (lambda codec: ql.Searcher("folder"), "bundle is of type str: Searcher.load(DIR) reads a folder"),
        (lambda codec: ql.Searcher.load("index", num_threads="2"), "num_threads='2': expected an integer or None"),
        (lambda codec: ql.open_vectors(X), "path is of type ndarray: give the path of a file of vectors"),
        (lambda codec: ql.open_codes(3), "path is of type int: give the path of a store of codes"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_line(
    call: Callable[[Any], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's program has no such hook
    with pytest.raises(ValueError) as error:
        call(small)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def small() -> Any:
    return ql.train(X, **OPTIONS)


def test_an_index_names_its_search_parameters(small: Any) -> None:
    index = ql.build_index(small, X, pairwise=False, progress=False)
    with pytest.raises(ValueError, match=r"^unknown parameter n_probe \(did you mean nprobe\?\); choose from: "):
        index.search(X[:2], n_probe=3)
    with pytest.raises(ValueError, match=r"^k=True: give a whole number$"):
        index.search(X[:2], k=True)
    points = ql.explore(index, X[:5], database=X, progress=False, **SEARCH)
    with pytest.raises(ValueError, match=r"^k=7: R@k was measured at 1, 10, 100: give one of these"):
        ql.pareto_front(points, k=7)


def test_a_folder_of_something_else_is_no_run(small: Any, tmp_path: Path) -> None:
    small.save(tmp_path / "codec")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "lost" / "checkpoints").mkdir(parents=True)
    for name, message in {
        "codec": "codec holds something else than a training: name another run_dir",
        "broken": "config.json is damaged .*: name another run_dir",
        "lost": "holds a training, and not with what options .*: name another run_dir",
    }.items():
        with pytest.raises(ValueError, match=message):
            ql.train(X, run_dir=tmp_path / name, **OPTIONS)


def test_the_package_lists_its_public_names() -> None:
    assert dir(ql) == sorted(ql.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'trian'") as error:
        _ = ql.trian
    assert (error.value.name, error.value.obj) == ("trian", qinco_lit)


def test_what_is_checked_is_what_the_signature_says() -> None:
    def function(number: float, *, names: list[str] | None = None, any_: Any = None, **others: int) -> Any:
        return number, names, any_, others

    called: Any = checked(function)
    number, _, given, others = called(np.float32(0.5), any_=X, other=np.int8(3))
    assert type(number) is float
    assert given is X
    assert others == {"other": 3}
    assert called(1, names=["a"])[:2] == (1, ["a"])
    with pytest.raises(ValueError, match=r"^names=\['a', 1\]: expected a list in brackets, each text or None$"):
        called(1, names=["a", 1])
    with pytest.raises(ValueError, match=r"^other='a': expected an integer$"):
        called(1, other="a")
    with pytest.raises(TypeError, match=r"function\(\) missing a required argument: 'number'$"):
        called()
