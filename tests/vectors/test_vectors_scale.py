"""What must not grow with the file: memory to open and to stream, pickles; and use from other processes."""

import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from qinco_lit.vectors import open_vectors, write_vectors

NUM_ROWS, DIM = 1_000_000_000, 128

STREAM = """
import resource, sys
import numpy as np
from qinco_lit.vectors import open_vectors

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

open_vectors(sys.argv[2])[:70000]  # allocator and imports reach their usual size
before = resident_mb()
vectors = open_vectors(sys.argv[1])
opened = resident_mb()
assert vectors.shape == (1_000_000_000, 128), vectors.shape
assert vectors[:2].tolist() == [[1] * 128, [0] * 128]
assert vectors[-2:].tolist() == [[0] * 128, [2] * 128]
assert vectors[np.array([999_999_999, 0, -1])].max(axis=1).tolist() == [2, 1, 2]
peak, total = opened, 0
for start in (900_000_000, 904_000_000, 900_000_000):  # the last one from the page cache
    for batch in vectors.view(start, start + 6_000_000).iter_batches(65536):
        peak, total = max(peak, resident_mb()), total + batch.nbytes
assert total > 2 * 10**9
ids = np.random.default_rng(0).integers(0, 1_000_000_000, 5000)
for first in range(0, 5000, 100):
    assert not vectors[ids[first : first + 100]].any()
    peak = max(peak, resident_mb())
print(opened - before, peak - opened)
"""

OTHER_PROCESS = """
import os, pickle, sys
vectors = pickle.load(sys.stdin.buffer)
if sys.argv[1] == "fork":
    list(vectors.iter_batches(3))  # mapped or opened before the fork
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.stdout.write(repr((vectors[:].sum(), vectors[[4, -1, 4]].tolist())))
sys.stdout.flush()
os._exit(0)
"""


def run_python(code, *arguments, stdin=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=stdin, capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_a_billion_rows_open_slice_and_stream_with_a_flat_resident_set(tmp_path):
    sparse = tmp_path / "base.1B.u8bin"
    with sparse.open("wb") as stream:
        stream.write(struct.pack("<II", NUM_ROWS, DIM) + b"\x01" * DIM)
        stream.truncate(8 + NUM_ROWS * DIM)
        stream.seek(-DIM, os.SEEK_END)
        stream.write(b"\x02" * DIM)
    write_vectors(tmp_path / "small.u8bin", np.zeros((70_000, DIM), dtype=np.uint8))
    opened_mb, grown_mb = map(float, run_python(STREAM, sparse, tmp_path / "small.u8bin").split())
    assert opened_mb < 1
    # 64 MB may stay mapped, a batch is 8 MB.
    assert grown_mb < 100


@pytest.mark.parametrize("suffix", ["fvecs", "npy", "hdf5:train", "h5:chunked"])
def test_pickles_are_small_even_after_use(tmp_path, suffix):
    rows = np.random.default_rng(0).random((5000, 32), dtype=np.float32)
    path = f"{tmp_path}/x.{suffix}"
    write_vectors(path, iter([rows]) if "chunked" in suffix else rows)
    vectors = open_vectors(path)
    assert vectors[100:].shape == (4900, 32)
    pickled = pickle.dumps(vectors)
    assert len(pickled) < 1024
    np.testing.assert_array_equal(pickle.loads(pickled)[:], rows)


@pytest.mark.parametrize("start", ["spawn", "fork"])
@pytest.mark.parametrize("suffix", ["bvecs", "hdf5:train", "h5:chunked"])
def test_another_process_reads_the_same_rows(tmp_path, suffix, start):
    rows = np.arange(60, dtype=np.uint8).reshape(10, 6)
    path = f"{tmp_path}/x.{suffix}"
    write_vectors(path, iter([rows]) if "chunked" in suffix else rows)
    pickled = pickle.dumps(open_vectors(path).view(1, 9))
    expected = repr((rows[1:9].sum(), rows[[5, 8, 5]].tolist()))
    assert run_python(OTHER_PROCESS, start, stdin=pickled) == expected
