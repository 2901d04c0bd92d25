"""What the process of tests/processes.py imports before it forks: all that commands import as they go."""

import importlib
import pkgutil

from tests import first

# isort: split
import hydra.main  # noqa: F401
import wandb  # noqa: F401

import datamodules
import qinco_lit

for package in (qinco_lit, datamodules):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

first.all_is_imported()
