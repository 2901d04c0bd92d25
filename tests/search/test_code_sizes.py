"""Codes of other sizes than a byte, and more of them than eight: 4, 10, 12 bits, in every place they pass through."""

import re
from itertools import product
from pathlib import Path

import faiss
import numpy as np
import pytest

from qinco_lit import Searcher
from qinco_lit.search.build.fit import more_vectors
from qinco_lit.search.build.inputs import pairwise_options
from qinco_lit.search.decoders.additive import AdditiveDecoder
from qinco_lit.search.decoders.pairwise import PairwiseDecoder, tables_too_large
from qinco_lit.search.index.bundle import load, save
from qinco_lit.search.index.faiss_index import add_codes, additive_codebooks, empty_index
from qinco_lit.search.plain_scan import PlainScan
from qinco_lit.search.scan import AdditiveScan
from tests.search.index_jobs import Build, encode_file
from tests.search.indexes import DIM, LISTS, Indexed, indexed, ivf_codec

STEPS, ROWS = 12, 300
SIZES = [2, 4, 11, 16, 1024, 4096]


class Codes:
    """Random codes of random lists, and what their codewords add up to."""

    def __init__(self, codebook_size: int) -> None:
        rng = np.random.default_rng(codebook_size)
        self.centroids = np.float32(5 * rng.normal(size=(LISTS, DIM)))
        scale = 0.8 ** np.arange(STEPS)[:, None, None]
        self.codebooks = np.float32(scale * rng.normal(size=(STEPS, codebook_size, DIM)))
        self.codes = rng.integers(0, codebook_size, (ROWS, STEPS)).astype("u1" if codebook_size <= 256 else "u2")
        self.codes[0], self.codes[1] = 0, codebook_size - 1
        self.list_ids = rng.integers(0, LISTS, ROWS).astype(np.int32)
        self.ids = rng.permutation(10 * ROWS)[:ROWS].astype(np.int64)
        self.residuals = np.float32(self.codebooks[np.arange(STEPS), self.codes].sum(1))
        self.x_hat = self.centroids[self.list_ids] + self.residuals
        self.limits = (0.0, float((self.residuals**2).sum(1).max()) + 1)
        self.queries = np.float32(self.x_hat[:20] + rng.normal(size=(20, DIM)))

    def plain(self) -> PlainScan:
        index = empty_index(self.centroids, self.codebooks, self.limits)
        add_codes(index, self.list_ids, self.codes, self.ids)
        return PlainScan(index)

    def scan(self) -> AdditiveScan:
        coarse = faiss.IndexHNSWFlat(DIM, 32)
        coarse.add(self.centroids)
        scan = AdditiveScan(coarse, self.codebooks, inner_product=False)
        scan.add(self.list_ids, self.codes, self.ids)
        return scan


@pytest.mark.parametrize("codebook_size", SIZES)
@pytest.mark.parametrize("kind", ["plain", "scan"])
def test_both_scans_find_the_nearest_sums_of_codewords(codebook_size: int, kind: str) -> None:
    given = Codes(codebook_size)
    scan = given.plain() if kind == "plain" else given.scan()
    found = scan.search(given.queries, 9, nprobe=LISTS, ef_search=64)
    true = ((given.queries[:, None] - given.x_hat[None]) ** 2).sum(-1)
    # half a level of faiss' 256 for a norm; ours has 65,536
    tolerance = given.limits[1] / 512 + 1e-3 if kind == "plain" else 0.05
    np.testing.assert_allclose(found.scores, np.sort(true, 1)[:, :9], rtol=0, atol=2 * tolerance)
    row_of = {int(id_): row for row, id_ in enumerate(given.ids)}
    rows = np.vectorize(row_of.__getitem__)(found.ids)
    np.testing.assert_array_equal(found.codes, given.codes[rows])
    np.testing.assert_array_equal(found.list_ids, given.list_ids[rows])
    assert found.codes.dtype == given.codes.dtype


@pytest.mark.parametrize("codebook_size", [*SIZES, 65536])
def test_lists_hold_the_codes_in_as_few_bits_as_they_need(codebook_size: int) -> None:
    given, bits = Codes(codebook_size), (codebook_size - 1).bit_length()
    plain, scan = given.plain(), given.scan()
    assert plain.entry_bytes == -(-(STEPS * bits + 8) // 8) + 8
    per_byte = {1: 8, 2: 4, 4: 2}.get(bits, 1)  # short codes share a column
    width = bits * per_byte
    columns = -(-STEPS // per_byte) + -(-16 // width)
    assert scan.entry_bytes == -(-columns * width // 8) + 8
    for lists in (plain, scan):
        list_ids, codes, ids = map(np.concatenate, zip(*lists.contents(), strict=True))
        order, expected = np.argsort(ids), np.argsort(given.ids)
        np.testing.assert_array_equal(codes[order], given.codes[expected])
        np.testing.assert_array_equal(list_ids[order], given.list_ids[expected])


@pytest.mark.parametrize("codebook_size", SIZES)
def test_a_file_of_faiss_keeps_codes_and_codebooks(codebook_size: int, tmp_path: Path) -> None:
    given = Codes(codebook_size)
    index = given.plain().index
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    back = faiss.read_index(str(tmp_path / "index.faiss"))
    np.testing.assert_array_equal(additive_codebooks(back, codebook_size), given.codebooks)
    back.nprobe = LISTS
    distances, ids = back.search(given.queries, 5)
    order = np.argsort(given.ids)
    found = given.x_hat[order[np.searchsorted(given.ids[order], ids)]]
    true = ((given.queries[:, None] - found) ** 2).sum(-1)
    np.testing.assert_allclose(distances, true, rtol=0, atol=given.limits[1] / 512 + 1e-2)


@pytest.fixture(scope="module", params=[16, 1024, 4096])
def given(request: pytest.FixtureRequest) -> Indexed:
    """Vectors of a codec of 12 steps with as many codewords."""
    return indexed(ROWS, num_steps=STEPS, codebook_size=request.param, pairwise=False)


def nearest(given: Indexed, rows: np.ndarray, k: int) -> np.ndarray:
    return np.sort(((given.queries[:, None].astype(np.float64) - given.x_hat[rows]) ** 2).sum(-1), 1)[:, :k]


def test_an_index_finds_the_nearest_decoded_vectors_after_any_change(given: Indexed, tmp_path: Path) -> None:
    save(given.bundle, tmp_path / "index")
    everything = {"nprobe": LISTS, "num_additive": ROWS}
    for mmap in (False, True):
        searcher = Searcher.load(tmp_path / "index", mmap=mmap)
        assert searcher.bytes_per_vector["codes"] == -(-given.bundle.codec.bits_per_vector // 8)
        distances, ids = searcher.search(given.queries, 7, **everything)
        np.testing.assert_allclose(distances, nearest(given, np.arange(ROWS), 7), rtol=1e-4, atol=1e-3)
        assert np.isin(ids, given.ids).all()
    searcher = Searcher.load(tmp_path / "index")
    half = np.arange(0, ROWS, 2)
    assert searcher.remove(given.ids[1::2]) == ROWS - len(half)
    distances, _ = searcher.search(given.queries, 7, **everything)
    np.testing.assert_allclose(distances, nearest(given, half, 7), rtol=1e-4, atol=1e-3)
    searcher.add(given.x[1::2], given.ids[1::2])
    searcher.save(tmp_path / "again")
    back = load(tmp_path / "again", verify=True)
    list_ids, codes, ids = map(np.concatenate, zip(*PlainScan(back.index).contents(), strict=True))
    order, expected = np.argsort(ids), np.argsort(given.ids)
    np.testing.assert_array_equal(list_ids[order], given.list_ids[expected])
    np.testing.assert_array_equal(codes[order], given.codes[expected])


# -- tables over pairs of codes ---------------------------------------------------------------------------------------


def test_pairs_of_codes_of_ten_bits_name_their_cell() -> None:
    rng = np.random.default_rng(0)
    size = 1024
    additive = AdditiveDecoder(np.float32(rng.normal(size=(STEPS, size, 2))))
    tables = np.float32(rng.normal(size=(2, size**2, 2)))
    list_codes = rng.integers(0, size, (LISTS, 3)).astype(np.uint16)
    decoder = PairwiseDecoder([(0, 11), (4, 14)], tables, list_codes, additive)
    codes = rng.integers(0, size, (100, STEPS)).astype(np.uint16)
    list_ids = rng.integers(0, LISTS, 100).astype(np.int32)
    expected = additive.decode(codes)
    wide = codes.astype(int)
    expected += tables[0][wide[:, 0] * size + wide[:, 11]]
    expected += tables[1][wide[:, 4] * size + list_codes[list_ids, 2].astype(int)]
    np.testing.assert_allclose(decoder.decode(list_ids, codes), expected, rtol=1e-4, atol=1e-4)


def test_an_index_of_large_codebooks_has_no_tables(
    build: Build, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ivf_codec(num_steps=3, codebook_size=4096).save(tmp_path / "codec")
    encode_file(tmp_path / "codec", inputs / "base.npy", tmp_path / "codes.h5")
    made = {"codec_dir": tmp_path / "codec", "codes": tmp_path / "codes.h5"}
    words = "6 pairwise tables of 4096^2 x 16 float32 take 6.4 GB, more than 4.3 GB"
    for asked in ({"pairwise": True}, {"num_tables": 6}):
        with pytest.raises(ValueError, match=f"^{re.escape(words)}: give fewer num_tables, or pairwise=false$"):
            build(**made, **asked)
    assert not (tmp_path / "index.work").exists()
    with caplog.at_level("INFO"):
        report = build(**made)
    assert f"no pairwise decoder: {words}; num_tables=N gives one of N tables" in caplog.messages
    assert report is not None
    assert report["pairwise"] is None
    assert load(tmp_path / "index").pairwise is None


def test_nothing_is_advised_that_cannot_help(caplog: pytest.LogCaptureFixture) -> None:
    huge = ivf_codec(num_steps=2, codebook_size=65536)  # not even one table fits
    given = {"num_tables": None, "num_list_codes": 5, "dtype": "float16"}
    with pytest.raises(ValueError, match=r"GB: give pairwise=false$"):
        pairwise_options(huge, 200_000, True, **given)
    with caplog.at_level("INFO"):
        assert pairwise_options(huge, 200_000, None, **given) is None
    assert caplog.messages[0].endswith("GB")


def test_tables_need_training_vectors(caplog: pytest.LogCaptureFixture) -> None:
    small, large = ivf_codec(codebook_size=256), ivf_codec(codebook_size=1024)
    given = {"num_tables": None, "num_list_codes": 5, "dtype": "float16"}
    assert pairwise_options(small, 100, None, **given) == given
    assert pairwise_options(small, 100, False, **given) is None
    with caplog.at_level("INFO"):
        assert pairwise_options(large, 200_000, None, **given) is None
    (line,) = caplog.messages
    assert line == (
        "no pairwise decoder: a table has 1024^2 = 1,048,576 cells, there are 200,000 training vectors; num_tables=N "
        "gives one of N tables"
    )
    assert pairwise_options(large, 300_000, None, **given) == given
    assert pairwise_options(large, 100, True, **given) == given
    assert pairwise_options(large, 100, None, **given | {"num_tables": 2}) == given | {"num_tables": 2}


def test_few_training_vectors_for_many_codewords_get_a_word() -> None:
    assert more_vectors(200_000, 8 * 256) is None
    words = "leave its error on others {} above the least; num_training={} would leave 5%"
    large = "200,000 training vectors for 49,152 codewords"
    assert more_vectors(200_000, 12 * 4096) == f"{large} {words.format('33%', '1_032_192')}"
    assert more_vectors(900, 1000) == f"900 training vectors for 1,000 codewords {words.format('far', '21_000')}"


def test_tables_are_left_out_by_their_size() -> None:
    words = "24 pairwise tables of 1024^2 x 128 float32 take 12.9 GB, more than 4.3 GB"
    assert tables_too_large(24, 1024, 128) == words
    assert tables_too_large(8, 1024, 128) is None
    for bits, dim in product((4, 8), (96, 128, 256)):  # those of the papers at 8 bytes
        assert tables_too_large(16, 1 << bits, dim) is None
