"""Which data sets are not there, asked of their modules before anything runs."""

from collections.abc import Sequence
from importlib import import_module


def missing_data(options: Sequence[str], data_dir: str) -> str | None:
    """Return how to get a data set whose files are not there, in one line; None where they are, or make themselves.

    Asks `missing_files` next to the data set's `_target_`, where there is one.

    Args:
        options: of every command on the data set: `data=bigann`, `data.size=1B`.
        data_dir: where data sets lie.

    Raises:
        ValueError: impossible options.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    loader = GlobalHydra.instance().config_loader()
    config = loader.load_configuration("evaluate", [*options, f'data_dir="{data_dir}"'], RunMode.RUN)
    values = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(values, dict)
    data = {str(name): value for name, value in values.items()}
    module = import_module(str(data.pop("_target_")).rpartition(".")[0])
    if not hasattr(module, "missing_files"):
        return None
    missing: str | None = module.missing_files(**data)
    return missing
