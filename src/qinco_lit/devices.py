"""Which device a command runs on."""

import torch


def chosen_device(name: str) -> torch.device:
    """Return the device of a name: auto (the first GPU, else the CPU), cpu, cuda, cuda:1.

    Raises:
        ValueError: an unknown name, or a GPU that this machine has not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name}; choose from: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use device=cpu")
    return device
