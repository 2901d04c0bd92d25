"""What the benchmarks of the engine share: the machine in a line, synchronised timing, the peak of matrix products."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

# of a product (rows x inner) (inner x columns): what a network of this project does, and squares
PEAK_SHAPES = (
    (1024, 128, 256), (1024, 256, 128), (1024, 384, 384), (4096, 256, 256), (4096, 384, 384),
    (512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048),
)  # fmt: skip
# has torch and faiss use no instructions beyond AVX2, set before they load
AVX2 = {
    **{"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "OPENBLAS_CORETYPE": "Haswell",
}
GPU_PEAK_SHAPES = ((65536, 384, 384), (4096, 4096, 4096), (8192, 8192, 8192))


def machine(device: torch.device) -> str:
    """Where and when: CPU or GPU, threads, load average, torch, date."""
    name = torch.cuda.get_device_name(device) + " with " + _cpu() if device.type == "cuda" else _cpu()
    load = os.getloadavg()[0]
    threads = f"{torch.get_num_threads()} threads, load {load:.1f}"
    return f"{name}, {threads}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def seconds(run: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """How long a call takes, a GPU's queue emptied before and after it; and what it returns."""
    synchronize(device)
    start = time.perf_counter()
    result = run()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(
    runs: Mapping[str, Callable[[], Result]], repeats: int, device: torch.device
) -> tuple[dict[str, Result], dict[str, list[float]]]:
    """What each run returns, at a first call to warm up; then the seconds of each, by turns: all, all again, ..."""
    results = {name: run() for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, device)[0])
    return results, times


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def best_size(rate: Callable[[int], float], sizes: Iterable[int]) -> int:
    """The size at which `rate` is highest; sizes grow, and two in a row that are far slower or too large end it."""
    rates: dict[int, float] = {}
    for size in sizes:
        try:
            rates[size] = rate(size)
        except torch.cuda.OutOfMemoryError:
            break
        if len(rates) > 2 and max(list(rates.values())[-2:]) < 0.9 * max(rates.values()):
            break
    torch.cuda.empty_cache()
    return max(rates, key=rates.__getitem__)


def powers_of_two(first: int, last: int) -> list[int]:
    """1, 2, 4, ... that lie between the two, at least one of them."""
    sizes = [1 << exponent for exponent in range(40) if max(first, 1) <= 1 << exponent <= last]
    return sizes or [max(1, min(first, last))]


def matrix_peak(dtype: torch.dtype, device: torch.device, per_shape_s: float = 0.2) -> float:
    """Floating-point operations per second of torch's matrix product in its fastest call over many shapes."""
    shapes = PEAK_SHAPES + (GPU_PEAK_SHAPES if device.type == "cuda" else ())
    return max(_shape_peak(*shape, dtype, device, per_shape_s) for shape in shapes)


def _shape_peak(rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device, limit_s: float) -> float:
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(columns, inner, device=device).to(dtype).T
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    flops = 2 * rows * inner * columns
    # enough products in a measurement that neither the clock nor the start of a GPU's kernels counts
    once = max(seconds(lambda: torch.mm(a, b, out=out), device)[0] for _ in range(2))
    number = max(1, min(1000, int(limit_s / 8 / once)))

    def many() -> None:
        for _ in range(number):
            torch.mm(a, b, out=out)

    return max(flops * number / seconds(many, device)[0] for _ in range(5))


def heading(*columns: str) -> str:
    """The first two lines of a markdown table."""
    return f"{line(*columns)}\n{'|---' * len(columns)}|"


def line(*cells: str) -> str:
    """A line of a markdown table."""
    return "| " + " | ".join(cells) + " |"
