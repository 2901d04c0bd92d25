"""In which precision the encoder evaluates its candidates."""

from dataclasses import dataclass

import torch

PRECISIONS = ("auto", "fast", "float32", "screened", "bfloat16")


@dataclass(frozen=True)
class Precision:
    """How candidates are scored. Reconstructions and squared L2 are float32 in every case.

    Attributes:
        name: what the user calls it, never `auto` or `fast`.
        scoring: dtype of the network's activations and weights when all candidates are scored.
        rescore: whether the best of them are evaluated again in float32 before hypotheses are kept.
    """

    name: str
    scoring: torch.dtype
    rescore: bool


_NAMED = {
    "float32": Precision("float32", torch.float32, rescore=False),
    "screened": Precision("screened", torch.bfloat16, rescore=True),
    "bfloat16": Precision("bfloat16", torch.bfloat16, rescore=False),
}
FLOAT32 = _NAMED["float32"]


def precision_for(name: str, device: torch.device) -> Precision:
    """The precision of a name.

    Where bfloat16 is fast in hardware, `auto` (the same codes as float32) is `screened` and `fast` is `bfloat16`; both
    are `float32` elsewhere.

    Raises:
        ValueError: an unknown name.
    """
    check_precision(name)
    if name in ("auto", "fast"):
        faster = "screened" if name == "auto" else "bfloat16"
        name = faster if has_fast_bfloat16(device) else "float32"
    return _NAMED[name]


def check_precision(name: str, option: str = "precision") -> None:
    """Raise ValueError for an unknown name of an option, in one line."""
    if name == "float16":
        raise ValueError(f"{option}=float16 is no more: choose bfloat16, which is as fast and has float32's range")
    if name not in PRECISIONS:
        raise ValueError(f"{option}={name} is unknown: choose from {', '.join(PRECISIONS)}")


def recorded_precision(name: str) -> str:
    """The precision of codes that an earlier version made: what that called float16 is searched in bfloat16 today."""
    return "bfloat16" if name == "float16" else name


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products have units of their own: tensor cores (Ampere and later), or AMX on x86."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # without AMX, bfloat16 saves too little to pay for the conversions
    return device.type == "cpu" and cpu_has_amx_bfloat16()


def cpu_has_amx_bfloat16() -> bool:
    """Whether this CPU has AMX for bfloat16; not where torch is too old to say: the codes are those of float32 then."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))


def num_finalists(keep: int) -> int:
    """Candidates that are evaluated again when `keep` of them are kept.

    A margin over `keep` for the ranks that rounding to bfloat16 moves: with it 99.95 % of the codes and more were those
    of float32 in every measurement (benchmarks/RESULTS.md).
    """
    return keep + max(8, keep // 4)
