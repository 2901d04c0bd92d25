"""Pairwise decoder: tables as leave-one-out says, pairs as an exhaustive search finds; never worse than additive."""

import json
import re
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from qinco_lit.search.decoders.additive import AdditiveDecoder, AdditiveFit
from qinco_lit.search.decoders.pairwise import PairwiseDecoder, advice, fit_pairwise, quantize_lists
from qinco_lit.search.decoders.pairwise_greedy import LearningPoint
from qinco_lit.search.decoders.pairwise_tables import SHRINKAGES, CellSums, squared_norms


class Arrays:
    """Coded vectors in memory, in blocks of any size."""

    def __init__(self, codes, list_ids, targets, block=1000):
        self.arrays, self.block = (codes, list_ids, targets), block

    def __len__(self):
        return len(self.arrays[0])

    def blocks(self):
        for start in range(0, len(self), self.block):
            yield tuple(array[start : start + self.block] for array in self.arrays)


K, M, DIM, LISTS = 6, 3, 4, 20


def problem(rows=3000, seed=0, noise=0.5, effects=((0, 1, 1.0), (1, 3, 0.5)), num_list_codes=2):
    """Codes and lists at random; targets with effects of pairs of columns. Training and validation, and the rest."""
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(LISTS, DIM)).astype(np.float32)
    populations = rng.integers(1, 9, LISTS)
    list_codes = quantize_lists(centroids, populations, num_codes=num_list_codes, codebook_size=K)
    total = rows + 1000
    codes = rng.integers(0, K, (total, M)).astype(np.uint8)
    list_ids = rng.integers(0, LISTS, total).astype(np.int32)
    columns = np.concatenate([codes, list_codes[list_ids]], 1).astype(int)
    x = rng.normal(size=(M, K, DIM))[np.arange(M), codes].sum(1) + noise * rng.normal(size=(total, DIM))
    for a, b, size in effects:
        x += size * rng.normal(size=(K, K, DIM))[columns[:, a], columns[:, b]]
    x = x.astype(np.float32)
    training, validation = (Arrays(codes[s], list_ids[s], x[s]) for s in (slice(rows), slice(rows, None)))
    fit = AdditiveFit(M, K, DIM)
    fit.add(codes[:rows], x[:rows])
    return training, validation, fit.solve()[0], centroids, populations


def mse(decoder, vectors):
    codes, list_ids, x = vectors.arrays
    return float(np.square(decoder.decode(list_ids, codes) - x).sum(1, dtype=np.float64).mean())


def additive_mse(additive, vectors):
    codes, _, x = vectors.arrays
    return float(np.square(additive.decode(codes) - x).sum(1, dtype=np.float64).mean())


def random_decoder(dtype=np.float32, num_tables=3):
    rng = np.random.default_rng(1)
    return PairwiseDecoder(
        [(0, 1), (2, 4), (1, 3)][:num_tables],
        rng.normal(size=(num_tables, K * K, DIM)).astype(dtype),
        rng.integers(0, K, (LISTS, 2)).astype(np.uint8),
        AdditiveDecoder(rng.normal(size=(M, K, DIM)).astype(np.float32)),
    )


def some_codes(rows=200):
    rng = np.random.default_rng(2)
    return rng.integers(0, LISTS, rows).astype(np.int32), rng.integers(0, K, (rows, M)).astype(np.uint8)


# -- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 1e-2)])
def test_decoding_adds_a_row_of_every_table(dtype, tolerance):
    decoder = random_decoder(dtype)
    list_ids, codes = some_codes()
    expected = decoder.additive.decode(codes)
    for row, (list_id, own) in enumerate(zip(list_ids, codes, strict=True)):
        columns = [*own.tolist(), *decoder.list_codes[list_id].tolist()]
        for (a, b), table in zip(decoder.columns, decoder.tables, strict=True):
            expected[row] += table[columns[a] * K + columns[b]]
    np.testing.assert_allclose(decoder.decode(list_ids, codes), expected, rtol=0, atol=tolerance)
    assert decoder.num_bytes == decoder.tables.nbytes + decoder.list_codes.nbytes + 4 * M * K * DIM


def test_no_tables_decode_as_additive_and_no_rows_as_nothing():
    list_ids, codes = some_codes()
    decoder = random_decoder(num_tables=0)
    np.testing.assert_array_equal(decoder.decode(list_ids, codes), decoder.additive.decode(codes))
    assert random_decoder().decode(list_ids[:0], codes[:0]).shape == (0, DIM)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def test_bad_ids_and_codes_are_named():
    decoder, (list_ids, codes) = random_decoder(), some_codes()
    with refused("199 list ids do not fit codes of shape (200, 3)"):
        decoder.decode(list_ids[:199], codes)
    with refused(f"list id {LISTS} is out of range: num_lists is {LISTS}"):
        decoder.decode(np.full_like(list_ids, LISTS), codes)
    with refused(f"code {K} is out of range: codebook_size is {K}"):
        decoder.decode(list_ids, np.full_like(codes, K))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_save_and_load_round_trip(tmp_path, dtype):
    decoder, (list_ids, codes) = random_decoder(dtype), some_codes()
    decoder.save(tmp_path / "pairwise")
    loaded = PairwiseDecoder.load(tmp_path / "pairwise")
    assert loaded.columns == decoder.columns
    assert loaded.tables.dtype == dtype
    np.testing.assert_array_equal(loaded.decode(list_ids, codes), decoder.decode(list_ids, codes))


def test_damaged_and_foreign_files_are_refused_in_one_line(tmp_path):
    random_decoder().save(tmp_path)
    arrays, config = tmp_path / "tables.safetensors", tmp_path / "config.json"
    content, told = arrays.read_bytes(), json.loads(config.read_text())
    arrays.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with refused(f"{arrays} is damaged or belongs to another decoder: its SHA-256 is not that of config.json"):
        PairwiseDecoder.load(tmp_path)
    arrays.write_bytes(content)
    config.write_text(json.dumps(told | {"columns": told["columns"][:2]}))
    with refused(
        f"{arrays} does not fit its config.json: pairwise tables of shape (3, 36, 4) do not fit: expected (2, 36, 4)"
    ):
        PairwiseDecoder.load(tmp_path)
    config.write_text(json.dumps(told | {"version": 2}))
    message = "is no pairwise decoder this version reads: format 'qinco_lit pairwise decoder' version 2"
    with refused(f"{config} {message}"):
        PairwiseDecoder.load(tmp_path)
    arrays.unlink()
    message = f"no pairwise decoder in {tmp_path}: tables.safetensors is missing"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        PairwiseDecoder.load(tmp_path)


# -- one table ------------------------------------------------------------------------------------------------------


def test_leave_one_out_is_that_of_refitting_without_each_vector():
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 12, (40,), generator=generator)
    rows = torch.randn((40, 3), generator=generator) + 0.2 * cells[:, None]
    sums = CellSums(16, 3, torch.device("cpu"))
    sums.add(cells, rows, squared_norms(rows))
    left_out = {}
    for shrinkage in SHRINKAGES:
        error, remainders = 0.0, []
        for row in range(len(rows)):
            others = (cells == cells[row]) & (torch.arange(len(rows)) != row)
            remainders.append(rows[row] - rows[others].sum(0) / (others.sum() + shrinkage))
            error += float(remainders[-1].square().sum())
        left_out[shrinkage] = (error, torch.stack(remainders))
    shrinkage, error = sums.best_shrinkage()
    assert shrinkage == min(left_out, key=lambda value: left_out[value][0])
    assert error == pytest.approx(left_out[shrinkage][0], rel=1e-5)
    for shrinkage, (_, remainders) in left_out.items():
        sums = CellSums(16, 3, torch.device("cpu"))
        sums.add(cells, rows, squared_norms(rows))
        torch.testing.assert_close(
            sums.table((0, 1), shrinkage).left_out_remainder(cells, rows), remainders, rtol=1e-4, atol=1e-5
        )


# -- choosing and fitting -------------------------------------------------------------------------------------------


def exhaustive(training, additive, list_codes, num_tables):
    """Greedy search over all pairs and pseudo-counts, one vector left out at a time; in float64."""
    codes, list_ids, x = training.arrays
    columns = np.concatenate([codes, list_codes[list_ids]], 1).astype(int)
    residuals = x.astype(np.float64) - additive.decode(codes)
    chosen = []
    for _ in range(num_tables):
        best = (np.inf, None, None)
        for pair in combinations(range(columns.shape[1]), 2):
            cells = columns[:, pair[0]] * K + columns[:, pair[1]]
            sums, counts = np.zeros((K * K, DIM)), np.bincount(cells, minlength=K * K)
            np.add.at(sums, cells, residuals)
            for shrinkage in SHRINKAGES:
                others = (sums[cells] - residuals) / (counts[cells] - 1 + shrinkage)[:, None]
                error = np.square(residuals - others).sum()
                if error < best[0]:
                    best = (error, (pair, shrinkage, sums / (counts + shrinkage)[:, None]), residuals - others)
        chosen.append((*best[1], best[0] / len(x)))
        residuals = best[2]
    return chosen


@pytest.mark.parametrize("projected_dim", [DIM, 2])
def test_tables_are_those_of_an_exhaustive_search(projected_dim):
    training, validation, additive, centroids, populations = problem(
        rows=600, effects=((0, 1, 1.0), (1, 3, 0.7), (0, 2, 0.4))
    )
    decoder, report = fit_pairwise(
        training,
        validation,
        additive,
        centroids,
        populations,
        num_list_codes=2,
        num_tables=3,
        projected_dim=projected_dim,
    )
    expected = exhaustive(training, additive, decoder.list_codes, 3)
    assert decoder.columns == [pair for pair, *_ in expected]
    assert [table["pair"] for table in report["tables"]] == decoder.columns
    for table, fitted, (_, shrinkage, values, left_out_mse) in zip(
        report["tables"], decoder.tables, expected, strict=True
    ):
        assert table["shrinkage"] == shrinkage
        assert table["training_mse"] == pytest.approx(left_out_mse, rel=1e-5)
        np.testing.assert_allclose(fitted, values, rtol=1e-3, atol=1e-4)


def test_effects_of_pairs_are_found_and_each_table_lowers_the_validation_error():
    training, validation, additive, centroids, populations = problem()
    decoder, report = fit_pairwise(training, validation, additive, centroids, populations, num_list_codes=2)
    assert set(decoder.columns[:2]) == {(0, 1), (1, 3)}
    errors = [report["additive_validation_mse"], *(table["validation_mse"] for table in report["tables"])]
    assert errors[0] == pytest.approx(additive_mse(additive, validation), rel=1e-6)
    assert all(after < (1 - 1e-4) * before for before, after in pairwise(errors))
    assert report["validation_mse"] == pytest.approx(errors[-1], rel=1e-6)
    assert report["validation_mse"] == pytest.approx(mse(decoder, validation), rel=1e-6)
    noise_alone = DIM * 0.5**2
    assert noise_alone < report["validation_mse"] < 1.15 * noise_alone < errors[0]
    # what vectors are told whose own share is left out of the tables holds for others
    assert report["tables"][-1]["training_mse"] == pytest.approx(report["validation_mse"], rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_where_pairs_say_nothing_the_additive_decoder_remains(seed):
    training, validation, additive, centroids, populations = problem(rows=200, seed=seed, effects=())
    decoder, report = fit_pairwise(
        training, validation, additive, centroids, populations, num_list_codes=2, min_gain=0.02
    )
    assert decoder.columns == []
    assert decoder.tables.shape == (0, K * K, DIM)
    assert mse(decoder, validation) == additive_mse(additive, validation)
    assert report["stopped"].endswith("by 0.02 of it")


@pytest.mark.parametrize("rows", [10, 50, 300])
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_additive_on_validation(rows, seed):
    training, validation, additive, centroids, populations = problem(rows=rows, seed=seed, noise=2.0)
    decoder, _ = fit_pairwise(training, validation, additive, centroids, populations, num_list_codes=2, min_gain=0.0)
    # both errors are of float32 sums; with no gain asked for, a table may be taken for what rounding says
    assert mse(decoder, validation) <= (1 + 1e-6) * additive_mse(additive, validation)


def test_streaming_and_blocks_do_not_matter():
    training, validation, additive, centroids, populations = problem(rows=3000)
    kept, _ = fit_pairwise(training, validation, additive, centroids, populations, num_list_codes=2, num_tables=4)
    training.block = validation.block = 333
    streamed, report = fit_pairwise(
        training, validation, additive, centroids, populations, num_list_codes=2, num_tables=4, selection_rows=2900
    )
    assert streamed.columns == kept.columns
    np.testing.assert_allclose(streamed.tables, kept.tables, rtol=1e-3, atol=1e-5)
    assert [point["num_vectors"] for point in report["learning_curve"]] == [750, 1500, 3000]


def test_the_learning_curve_is_what_fewer_vectors_give():
    training, validation, additive, centroids, populations = problem(rows=1200)
    report = fit_pairwise(training, validation, additive, centroids, populations, num_list_codes=2, num_tables=1)[1]
    for point in report["learning_curve"]:
        fewer = Arrays(*(array[: point["num_vectors"]] for array in training.arrays))
        alone = fit_pairwise(fewer, validation, additive, centroids, populations, num_list_codes=2, num_tables=1)[1]
        assert alone["tables"][0]["pair"] == report["tables"][0]["pair"]
        assert alone["tables"][0]["validation_mse"] == pytest.approx(point["validation_mse"], rel=1e-6)


def test_float16_reports_its_error_and_refuses_what_it_cannot_hold():
    training, validation, additive, centroids, populations = problem()
    full, of_full = fit_pairwise(training, validation, additive, centroids, populations, num_list_codes=2)
    half, report = fit_pairwise(
        training, validation, additive, centroids, populations, num_list_codes=2, dtype="float16"
    )
    np.testing.assert_array_equal(half.tables, full.tables.astype(np.float16))
    assert report["float32_validation_mse"] == pytest.approx(of_full["validation_mse"], rel=1e-6)
    assert report["validation_mse"] == pytest.approx(mse(half, validation), rel=1e-9)
    assert report["validation_mse"] == pytest.approx(of_full["validation_mse"], rel=1e-4)
    scaled = [Arrays(*part.arrays[:2], 1e5 * part.arrays[2]) for part in (training, validation)]
    large = AdditiveDecoder(1e5 * additive.codebooks)
    with refused("the pairwise tables add up to values beyond float16: use pairwise_dtype=float32"):
        fit_pairwise(*scaled, large, centroids, populations, num_list_codes=2, dtype="float16")


def test_sizes_and_options_are_checked_first():
    training, validation, additive, centroids, populations = problem(rows=50)

    def fit(training=training, **options):
        fit_pairwise(training, validation, additive, centroids, populations, **options)

    with refused(
        "6 pairwise tables of 6^2 x 4 float32 take 0.0 GB, more than 0.0 GB (max_table_bytes): "
        "lower num_tables (0: no pairwise decoder)"
    ):
        fit(max_table_bytes=3000)
    with refused("num_tables=-1: give at least 0"):
        fit(num_tables=-1)
    with refused("dtype='float8' is none of float32, float16"):
        fit(dtype="float8")
    with refused("the pairwise decoder needs training vectors, there are none"):
        fit(Arrays(*(array[:0] for array in training.arrays)))


def test_no_tables_asked_for_need_no_memory_for_any():
    training, validation, _, centroids, populations = problem(rows=50)
    additive = AdditiveDecoder(np.zeros((M, 60_000, DIM), np.float32))  # a table would take 58 GB
    decoder, report = fit_pairwise(training, validation, additive, centroids, populations, num_tables=0)
    assert decoder.columns == report["tables"] == []
    assert report["validation_mse"] == additive_mse(additive, validation)


def test_advice_follows_the_curve():
    def curve(*errors):
        return [LearningPoint(1000 * 2**place, error) for place, error in enumerate(errors)]

    assert advice(curve(1.0)) == "too few training vectors to say how many pay off"
    last = "the last doubling, to 4,000 training vectors, changed the first table's MSE by"
    assert advice(curve(1.10, 1.0, 0.998)) == f"{last} -0.2%: more would hardly pay off"
    assert advice(curve(1.21, 1.1, 1.05)) == f"{last} -4.5%: up to about 64,000 would pay off"
    assert advice(curve(1.21, 1.1, 1.0)) == f"{last} -9.1%: many times more would pay off"
