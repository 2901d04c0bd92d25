"""Lists are found by norms that are computed once, and never by those of other centroids."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qinco_lit.quantizers import Quantizer, build_quantizer, kmeans, space, truncated
from qinco_lit.quantizers.kmeans import Kept

DIM, LISTS = 8, 20
MODELS = [{}, {"num_parts": 2}]
SIZES = {"num_steps": 2, "codebook_size": 4, "hidden_dim": 4, "num_blocks": 1, "num_candidates": 2, "beam_size": 2}


def _quantizer(model: dict[str, int]) -> Quantizer:
    quantizer = build_quantizer(DIM, num_lists=LISTS, **SIZES, **model)
    quantizer.set_centroids(_random(LISTS))
    return quantizer


def _random(rows: int, seed: int = 0) -> Tensor:
    return torch.randn((rows, DIM), generator=torch.Generator().manual_seed(seed))


def _set(quantizer: Quantizer) -> Quantizer:
    quantizer.set_centroids(_random(LISTS, 1))
    return quantizer


def _write(quantizer: Quantizer) -> Quantizer:
    assert quantizer.coarse_centroids is not None
    quantizer.coarse_centroids[3:9] *= -2
    return quantizer


def _scale(quantizer: Quantizer) -> Quantizer:
    quantizer.data_std[quantizer.part_slices[0]] = 9
    return quantizer


def _load(quantizer: Quantizer) -> Quantizer:
    quantizer.load_state_dict({name: 2 * value.flip(0) for name, value in quantizer.state_dict().items()})
    return quantizer


def _double_and_back(quantizer: Quantizer) -> Quantizer:
    quantizer.double()
    _write(quantizer)
    return quantizer.float()


CHANGES = [_set, _write, _scale, _load, _double_and_back, copy.deepcopy, lambda each: truncated(each, 2),
           lambda each: _write(pickle.loads(pickle.dumps(each)))]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("change", CHANGES)
def test_lists_follow_the_centroids_however_they_change(
    model: dict[str, int], change: Callable[[Quantizer], Quantizer]
) -> None:
    quantizer, x = _quantizer(model), _random(300, 2)
    quantizer.assign_lists(quantizer.normalize(x))
    changed = change(quantizer)
    centroids = changed.raw_centroids()
    assert centroids is not None
    found = changed.assign_lists(changed.normalize(x))
    torch.testing.assert_close(found, torch.cdist(x.double(), centroids.double()).argmin(1), rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_norms_are_computed_once(model: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(codebook: Tensor) -> Tensor:
        calls.append(len(codebook))
        return norms(codebook)

    norms = kmeans.half_squared_norms
    for module in (kmeans, space):
        monkeypatch.setattr(module, "half_squared_norms", counted)
    quantizer = _quantizer(model)
    x = quantizer.normalize(_random(10, 2))
    for _ in range(3):
        with torch.inference_mode():
            quantizer.assign_lists(x)
        quantizer.assign_lists(x)
    assert calls == [LISTS]


def test_tensors_that_do_not_tell_of_changes_are_not_remembered() -> None:
    double: Kept[Tensor] = Kept(lambda tensor: 2 * tensor)
    with torch.inference_mode():
        x = torch.ones(3)
        assert double(x)[0] == 2
        x += 1
        assert double(x)[0] == 4
