"""What a codec is worth at every rate: prefixes of its codes, shorter encodings, and models trained for the rate."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qinco_lit.codec import Codec
from qinco_lit.evaluation.codec_quantizer import CodecQuantizer
from qinco_lit.evaluation.measure import Meter, TestSet, blocks
from qinco_lit.progress import Progress

Rate = Literal["all"] | Sequence[int]


def check_rate(rate: Rate | None, dedicated: Sequence[Codec | str | Path], num_steps: int | None) -> None:
    """Raise ValueError for options that do not go together, before anything is loaded."""
    if rate is not None and num_steps is not None:
        shown = rate if isinstance(rate, str) else list(rate)
        raise ValueError(f"num_steps={num_steps} measures one rate, rate={shown} several: give one of them")
    if dedicated and rate is None:
        names = [each.name if isinstance(each, Codec) else str(each) for each in dedicated]
        raise ValueError(f"dedicated={names} is compared at each rate: add rate=all")


def chosen_rates(rate: Rate | None, quantizer: CodecQuantizer) -> list[int]:
    """Return the numbers of codes to measure at, ascending. Raises ValueError for one that the codec has not."""
    most = quantizer.num_steps
    if rate is None:
        return []
    if isinstance(rate, str):
        return list(range(1, most + 1))
    wrong = [each for each in rate if not 1 <= each <= most]
    if wrong or not rate:
        known = f"{quantizer.codec.name} has {most} codes"
        raise ValueError(f"rate={list(rate)}: {known}; give numbers from 1 to {most}, or rate=all")
    return sorted(set(rate))


def load_dedicated(
    given: Sequence[Codec | str | Path], quantizer: CodecQuantizer, rates: Sequence[int]
) -> dict[int, CodecQuantizer]:
    """Load the models that were trained for some of the rates, by their number of codes.

    Args:
        given: run folders, codec folders or codecs.
        quantizer: the codec they are compared with; its options of the search hold for them, too.
        rates: numbers of codes that are measured.

    Raises:
        FileNotFoundError: no codec there.
        ValueError: another dimension, codebook size or number of lists, a number of codes that is not measured, two of
            the same, or a search that one of them cannot do.
    """
    found: dict[int, CodecQuantizer] = {}
    for one in given:
        codec = one if isinstance(one, Codec) else _loaded(Path(one), quantizer.codec)
        path = one.name if isinstance(one, Codec) else one
        for name in ("dim", "codebook_size", "num_lists"):
            theirs, ours = getattr(codec, name), getattr(quantizer.codec, name)
            if theirs != ours:
                raise ValueError(f"dedicated={path} has {name}={theirs}, the codec {ours}: their rates do not compare")
        num_steps = codec.num_steps
        if codec.truncated_from is not None:
            raise ValueError(
                f"dedicated={path} was cut from a longer codec: give one that was trained for {num_steps} codes"
            )
        if num_steps not in rates:
            listed = ", ".join(map(str, rates))
            raise ValueError(f"dedicated={path} has {num_steps} codes, measured are {listed}: leave it out")
        if num_steps in found:
            both = f"{found[num_steps].codec.name} and {codec.name}"
            raise ValueError(f"dedicated={both} both have {num_steps} codes: give one of them")
        found[num_steps] = replace(quantizer, codec=codec)
        try:
            found[num_steps].encode(np.zeros((1, codec.dim), dtype=np.float32))
        except ValueError as error:  # a search that it cannot do
            raise ValueError(f"{codec.name}: {error}") from error
    return dict(sorted(found.items()))


def _loaded(path: Path, like: Codec) -> Codec:
    """The codec of a run folder or a codec folder, on the device and in the precision of another one."""
    folder = path / "codec" if (path / "codec" / "config.json").is_file() else path
    return Codec.load(folder, device=like.device, precision=like.precision)


def measure_rate_curve(
    quantizer: CodecQuantizer,
    rates: Sequence[int],
    dedicated: Mapping[int, CodecQuantizer],
    test_set: TestSet,
    batch_size: int,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure everything in one pass over the database, in memory that does not grow with it.

    Args:
        quantizer: the codec at all of its codes.
        rates: numbers of codes.
        dedicated: by number of codes.
        test_set: the data.
        batch_size: database vectors at a time.
        progress: counts the codes found.

    Returns:
        `Meter.figures` of the codec at all of its codes, and `rates` of `metrics.json`: `dedicated`, a list of facts
        like those of the codec, and `points`, a list of `num_steps`, `bytes_per_vector`, `prefix` (`mse` and recalls of
        the first codes of the full encoding), `encoded` (`Meter.figures` of encodings of so many codes; at all codes
        that is the full encoding) and `dedicated` (the same of that model, or None).

    Raises:
        ValueError: NaN or infinity in the database, or what a codec refuses.
    """
    shorter = [each for each in rates if each < quantizer.num_steps]
    full = Meter(quantizer, test_set, prefixes=shorter)
    encoded = {each: Meter(replace(quantizer, own_steps=each), test_set) for each in shorter}
    trained = {each: Meter(model, test_set) for each, model in dedicated.items()}
    meters = [(quantizer.num_steps, full), *encoded.items(), *trained.items()]
    total = int(test_set.database.shape[0]) * sum(num_steps for num_steps, _ in meters)
    progress.start(f"{len(rates)} rates", total)
    for start, x in blocks(test_set.database, batch_size):
        for num_steps, meter in meters:
            meter.add(x, start)
            progress.advance(len(x) * num_steps)
    points = [
        {
            "num_steps": each,
            "bytes_per_vector": replace(quantizer, own_steps=each).rate()["bytes_per_vector"],
            "prefix": full.prefix_figures(each),
            "encoded": encoded.get(each, full).figures(),
            "dedicated": trained[each].figures() if each in trained else None,
        }
        for each in rates
    ]
    return full.figures(), {"dedicated": [model.facts() for model in dedicated.values()], "points": points}
