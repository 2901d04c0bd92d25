"""A local Ray of two workers for all tests of the session, and what they work on."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

# before the first import of ray: nothing is reported, no token is written into the home
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """The module ray, connected to two workers of one core each, which end with the session."""
    import ray

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets must be short
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 << 20,
        _temp_dir=folder,
    )
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
