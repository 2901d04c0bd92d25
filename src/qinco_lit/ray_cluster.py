"""Ray itself: imported where it is used; what fails in its workers is raised as it would be here."""

import logging
from typing import Any


def ray() -> Any:
    """The module, which is connected to the cluster of RAY_ADDRESS, or to one of its own on this machine.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import ray as module
    except ImportError:
        raise ValueError("Ray is not installed: pip install 'qinco_lit[ray]'") from None
    if not module.is_initialized():
        module.init(log_to_driver=False, logging_level=logging.WARNING)
    return module


def result(reference: Any) -> Any:
    """What a task or a call of an actor returns, when it is there.

    Raises:
        What it raised there, without Ray's report around it; RayError, where Ray could not do it.
    """
    module = ray()
    try:
        return module.get(reference)
    except module.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError | OSError):
            raise error.cause from None
        raise
