"""Measure how many SIFT vectors a second `data=photo_sift` builds.

python benchmarks/photo_sift.py [--num-train 100000] [--workers 2]
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import cv2

from datamodules.photo_rows import default_num_workers
from datamodules.photo_sift import build_photo_sift
from datamodules.photo_views import view_descriptors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-train", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=default_num_workers())
    arguments = parser.parse_args()

    view_descriptors(("coffee.png",), (0,), 0, 1)  # warm-up: imports and OpenCV's tables
    with tempfile.TemporaryDirectory() as root:
        load_before, start_s, start_cpu_s = os.getloadavg()[0], time.perf_counter(), time.process_time()
        folder = build_photo_sift(Path(root), num_train=arguments.num_train, num_workers=arguments.workers)
        elapsed_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        num_rows = sum(path.stat().st_size // 132 for path in folder.glob("*.bvecs"))
    print(
        f"{num_rows} vectors in {elapsed_s:.1f} s, ground truth included: {num_rows / elapsed_s:.0f} vectors/s; "
        f"{cpu_s:.1f} s of CPU time: {num_rows / cpu_s:.0f} vectors per core and second; "
        f"{arguments.workers} threads on {os.cpu_count()} cores ({platform.machine()}), "
        f"load before {load_before:.1f}, OpenCV {cv2.getVersionString()}"
    )


if __name__ == "__main__":
    main()
