"""Peak memory of encoding, as the operating system counts it."""

import subprocess
import sys

import torch

from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.chunks import searched_rows

_WORKSPACE = 256 << 20
_ROWS = 100_000

# QINCo2-L at A=32, B=64, with one of its 16 blocks, which follow each other in the same memory: 1.2 GFLOP a vector
# and code. Two chunks are searched, the rest of the 100,000 vectors get zeros, so that input, output and chunks have
# their true sizes.
_JOB = """
import re
import numpy as np
import torch
from qinco_lit.codec import Codec
from qinco_lit.quantizers import Quantizer

torch.manual_seed(0)
quantizer = Quantizer(128, num_steps=2, embed_dim=384, hidden_dim=384, num_blocks=1, num_candidates=32, beam_size=64)
for parameter in quantizer.parameters():
    torch.nn.init.normal_(parameter, std=0.05)
codec = Codec(quantizer, workspace_bytes={workspace}, precision="{precision}")
x = np.zeros(({rows}, 128), np.uint8)
x[:64] = np.random.default_rng(0).integers(0, 255, (64, 128))
codec.encode(x[:1])  # libraries and their buffers
search, searched = Quantizer.encode_together, []

def counted(self, part, *arguments, **options):
    if len(searched) < 2:
        searched.append(len(part))
        return search(self, part, *arguments, **options)
    return torch.zeros((len(part), 2), dtype=torch.int64)

def peak():  # of this program; getrusage's also counts the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))

Quantizer.encode_together = counted
before = peak()
codes = codec.encode(x)
print(peak() - before - codes.nbytes, min(searched))
"""


def test_a_workspace_bounds_the_peak_whatever_the_breadth() -> None:
    for precision in ("float32", "screened"):
        job = _JOB.format(workspace=_WORKSPACE, rows=_ROWS, precision=precision)
        done = subprocess.run([sys.executable, "-c", job], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        grown, chunk = (int(word) for word in done.stdout.split())
        assert chunk > 1, "the bound was not what set the size of a chunk"
        assert _WORKSPACE / 8 < grown < _WORKSPACE


def test_a_chunk_in_half_precision_has_more_vectors_where_all_it_holds_is_half_as_large() -> None:
    def chunk(device: str, pairs: tuple[int, int], *, half: bool) -> int:
        search = Search(*pairs, candidate_budget=None, codebook_size=256)
        sizes = {"widths": (128, 384, 384), "scores_first": True, "half_precision": half}
        return searched_rows(search, 1 << 30, torch.device(device), **sizes)  # type: ignore[arg-type]

    many, few = (64, 32), (4, 4)  # 16 pairs, the best 12 of which would be evaluated again
    assert 1.7 < chunk("cuda", many, half=True) / chunk("cuda", many, half=False) < 2
    for device, pairs in (("cuda", few), ("cpu", many), ("cpu", few)):
        assert chunk(device, pairs, half=True) == chunk(device, pairs, half=False)
