"""Training from a file of 10^9 rows starts at once and stays small."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, sys, time
from itertools import islice
from qinco_lit.data.loader import StreamLoader
from qinco_lit.vectors import open_vectors

def resident_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20

start = resident_mib()
loader = StreamLoader(open_vectors(sys.argv[1]), batch_size=1024, epoch_size=10_000_000)
batches = iter(loader)
begin = time.monotonic()
assert next(batches).shape == (1024, 128)
first_s = time.monotonic() - begin
peaks = []
for _ in range(3):
    peaks.append(max(resident_mib() for _ in islice(batches, 260)) - start)
print(len(loader), first_s, *peaks)
"""


def test_a_billion_rows(tmp_path: Path):
    path = tmp_path / "billion.u8bin"
    with path.open("wb") as stream:
        stream.write((10**9).to_bytes(4, "little") + (128).to_bytes(4, "little"))
        stream.truncate(8 + 128 * 10**9)
    assert path.stat().st_blocks * 512 < 2**20  # sparse: only the header is on disk
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True)
    num_batches, first_s, *peaks = map(float, done.stdout.split())
    assert num_batches == 10_000_000 // 1024
    assert first_s < 10
    # Three windows of 32 MiB, the reader's buffers, block order and allocator slack; 780 batches alone are 98 MiB.
    assert max(peaks) < 256
    assert peaks[-1] < peaks[0] + 64
