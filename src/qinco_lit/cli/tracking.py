"""How a job is filed in W&B where the user left it open: group, job type, tags, a name that tells it from others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.conf import HydraConf

# Groups whose choice a run is filtered by in the dashboard.
_TAGGED = ("model", "data", "coarse")
# Options that say nothing about what a run computes, or where others lie.
_UNTOLD = ("resume", "overwrite", "data_dir", "cache_dir", "logger", "hydra")
_SAVED_CONFIG = "config.json"


def describe_run(config: dict[str, Any], settings: "HydraConf", run_dir: Path) -> None:
    """Fill what is null of `config["logger"]`, add the tags, and keep the choices of groups as `config["choices"]`.

    Args:
        config: the resolved configuration of a job, in plain values.
        settings: Hydra's settings of the job.
        run_dir: its folder; a resumed run has its choices from there.
    """
    config["choices"] = _choices(settings, run_dir)
    logger = config.get("logger")
    if logger is None:
        return
    tags = [config["choices"][group] for group in _TAGGED if config["choices"].get(group) not in (None, "none")]
    logger["tags"] = list(dict.fromkeys([*tags, *logger["tags"]]))
    logger["job_type"] = logger["job_type"] or str(settings.job.name)
    if is_multirun(settings):
        logger["group"] = logger["group"] or Path(settings.sweep.dir).name
    if logger.get("name") is None:
        logger["name"] = run_name([str(override) for override in settings.overrides.task])


def is_multirun(settings: "HydraConf") -> bool:
    """Whether the job is one of many of the same command line."""
    from hydra.types import RunMode

    return bool(settings.mode == RunMode.MULTIRUN)


def run_name(overrides: list[str]) -> str | None:
    """What the user typed, shortened to what tells runs of a sweep apart; None when nothing was.

    Choices of groups lose the group (`model=qinco2_s`: qinco2_s), options their groups (`model.beam_size=4`:
    beam_size=4), paths all but their end.
    """
    parts = []
    for override in overrides:
        key, equals, value = override.lstrip("+~").partition("=")
        if key.split(".")[0].split("/")[0] in _UNTOLD or not equals:
            continue
        if "/" in value:
            folders = [part for part in value.strip("'\"").split("/") if part]
            value = "/".join([part for part in folders if part != "codec"][-2:])
        is_choice = "." not in key and value[:1].isalpha()
        parts.append(value if is_choice else f"{key.rpartition('.')[2]}={value}")
    return " ".join(parts) or None


def _choices(settings: "HydraConf", run_dir: Path) -> dict[str, str]:
    import json

    chosen = {
        str(group): str(choice)
        for group, choice in settings.runtime.choices.items()
        if choice is not None and not str(group).startswith(("hydra/", "specialize"))
    }
    saved = run_dir / _SAVED_CONFIG
    if not chosen and saved.is_file():  # the saved config of a resumed run is one file, without groups
        earlier: dict[str, str] = json.loads(saved.read_text()).get("choices", {})
        return earlier
    return chosen
