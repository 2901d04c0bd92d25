"""k-means, initial codebooks, and what becomes of dead codewords."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from qinco_lit.progress import Progress
from qinco_lit.quantizers import QINCo, build_quantizer
from qinco_lit.quantizers import kmeans as kmeans_module
from qinco_lit.quantizers.kmeans import kmeans, nearest_codeword, residual_kmeans, split_pairs
from qinco_lit.training.dead_codewords import count_codes, redraw_dead, split_dead, target_statistics
from qinco_lit.training.start import init_networks, kmeans_codebooks, set_codebooks, set_normalization
from tests.models import random_quantizer
from tests.training.conftest import clustered


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def _error(x: torch.Tensor, centroids: torch.Tensor) -> float:
    return float((x - centroids[nearest_codeword(x, centroids)]).square().sum(1).mean())


def test_nearest_codeword_is_the_nearest() -> None:
    x = torch.from_numpy(clustered(500))
    codebook = x[:37]
    expected = ((x[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)
    assert (nearest_codeword(x, codebook) == expected).all()


@pytest.mark.usefixtures("three_threads")
def test_the_nearest_of_many_codewords_in_many_chunks_does_not_depend_on_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.from_numpy(clustered(3000))
    # of equal codewords in two tiles the first counts: in whole tiles, as a narrower one may round otherwise (AVX2)
    codebook = torch.cat([x[:768], x[:768]])
    monkeypatch.setattr(kmeans_module, "_TILE_CODEWORDS", {"cpu": 256})
    monkeypatch.setattr(kmeans_module, "_TILE_ROWS", {"cpu": 100})
    side_by_side = nearest_codeword(x, codebook)
    torch.set_num_threads(1)
    assert torch.equal(nearest_codeword(x, codebook), side_by_side)
    assert torch.equal(side_by_side[:768], torch.arange(768))
    assert torch.equal(side_by_side, ((x[:, None] - x[None, :768]) ** 2).sum(-1).argmin(1))


@pytest.mark.parametrize("split_empty", [False, True])
def test_more_iterations_lower_the_error(split_empty: bool) -> None:
    x = torch.from_numpy(clustered(2000))
    errors = [
        _error(x, kmeans(x, 32, iterations=n, generator=_generator(), split_empty=split_empty)) for n in (1, 3, 10, 30)
    ]
    assert errors == sorted(errors, reverse=True)


def test_splitting_puts_empty_centroids_to_work() -> None:
    x = torch.from_numpy(clustered(2000))
    used = {
        split: len(
            nearest_codeword(x, kmeans(x, 200, iterations=10, generator=_generator(), split_empty=split)).unique()
        )
        for split in (False, True)
    }
    assert used[False] < 170 < 195 < used[True]


def test_residual_kmeans_codes_what_is_left() -> None:
    x = torch.from_numpy(clustered(2000))
    residual, errors = x.clone(), []
    codebooks = residual_kmeans(x, 4, 16, iterations=10, generator=_generator(), split_empty=True)
    for codebook in codebooks:
        residual -= codebook[nearest_codeword(residual, codebook)]
        errors.append(float(residual.square().sum(1).mean()))
    assert all(later < 0.9 * earlier for earlier, later in pairwise(errors))


def test_pairs_halve_the_most_used() -> None:
    # 40 is split to 20 + 20, then one of those again to 10 + 10; 12 is never reached
    assert split_pairs(torch.tensor([40, 0, 12, 0])) == [(1, 0), (3, 0)]
    assert split_pairs(torch.tensor([1, 0, 0])) == []  # nothing to share


def test_counts_are_per_step() -> None:
    codes = torch.tensor([[0, 2], [0, 1], [1, 2]])
    assert count_codes(codes, 3).tolist() == [[2, 1, 0], [0, 1, 2]]


def _model() -> tuple[QINCo, torch.Tensor, torch.Tensor]:
    quantizer = random_quantizer(
        12, num_steps=3, codebook_size=16, hidden_dim=8, num_blocks=1, num_candidates=4, beam_size=2
    )
    x = torch.randn((400, 12), generator=_generator())
    return quantizer.parts[0], x, quantizer.encode(x)


def test_split_copies_parent_codebook_preselector_and_moments() -> None:
    quantizer, _, _ = _model()
    optimizer = torch.optim.AdamW(quantizer.parameters())
    sum(parameter.square().sum() for parameter in quantizer.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    usage = torch.full((3, 16), 10)
    usage[1, 4], usage[1, 9] = 0, 500
    before = {name: p.detach().clone() for name, p in quantizer.named_parameters()}
    assert split_dead(quantizer, usage, optimizer, _generator()) == 1
    step = quantizer.residual_steps()[0]
    assert step.preselector is not None
    for table in (step.codebook, step.preselector):
        moved = (table[4] - table[9]).detach()
        assert 0 < moved.abs().max() < 0.1 * table.detach().std()
        for moment in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[table][moment]
            assert torch.equal(state[4], state[9])
    changed = [name for name, p in quantizer.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["steps.0.codebook", "steps.0.preselector"]


@pytest.mark.parametrize("counts", [[100, 0, 0, 0], [60, 0, 40, 0], [0, 0, 0, 7], [3, 0, 0, 0], [0, 5, 1, 0]])
def test_revived_codewords_lie_beside_codewords_in_use(counts: list[int]) -> None:
    quantizer = random_quantizer(
        12, num_steps=2, codebook_size=4, hidden_dim=8, num_blocks=1, num_candidates=4, beam_size=2
    ).parts[0]
    optimizer = torch.optim.AdamW(quantizer.parameters())
    sum(parameter.square().sum() for parameter in quantizer.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    step = quantizer.residual_steps()[0]
    tables = [table for table in (quantizer.first_codebook, step.codebook, step.preselector) if table is not None]
    before = [table.detach().clone() for table in tables]
    split_dead(quantizer, torch.tensor([counts] * 2), optimizer, _generator())
    usage = torch.tensor(counts)
    used = usage.nonzero().flatten()
    revived = [child for child, _ in split_pairs(usage)]
    assert revived
    for table, there in zip(tables, before, strict=True):
        assert torch.equal(table[used], there[used])
        distance = torch.cdist(table[revived].detach(), there[used])
        near = distance.argmin(1)
        assert (distance.amin(1) < 6 * 1e-2 * 12**0.5 * there.std()).all()  # some deviations of the noise
        for name in ("exp_avg", "exp_avg_sq"):
            moment = optimizer.state[table][name]
            assert torch.equal(moment[revived], moment[used][near])


def test_redraw_follows_the_targets_and_leaves_the_used_alone() -> None:
    quantizer, x, codes = _model()
    mean, std = target_statistics(quantizer, x, codes, None)
    np.testing.assert_allclose(mean[0], x.mean(0), rtol=1e-5, atol=1e-6)
    first = quantizer.first_codebook.detach()[codes[:, 0]]
    np.testing.assert_allclose(std[1], (x - first).std(0, correction=0), rtol=1e-4)
    usage = torch.zeros((3, 16), dtype=torch.int64)
    usage[:, 0] = 1
    kept = quantizer.first_codebook[0].detach().clone()
    assert redraw_dead(quantizer, usage, mean, std, _generator()) == 45
    assert torch.equal(quantizer.first_codebook[0], kept)
    drawn = (quantizer.first_codebook[1:].detach() - mean[0]) / std[0]
    assert drawn.abs().max() <= 3**0.5 + 1e-5  # standardised uniform noise
    assert drawn.std().item() == pytest.approx(1.0, abs=0.1)


def test_standard_normalization_is_mean_per_dimension_and_one_std() -> None:
    x = torch.from_numpy(clustered(1000))
    quantizer = build_quantizer(12, num_steps=1, codebook_size=4, num_candidates=2)
    set_normalization(quantizer, x, "standard")
    np.testing.assert_allclose(quantizer.data_mean, x.numpy().mean(0), rtol=1e-4, atol=1e-5)
    assert float(quantizer.data_std[0]) == pytest.approx(x.numpy().std(), rel=1e-5)
    torch.testing.assert_close(quantizer.denormalize(quantizer.normalize(x)), x, rtol=1e-4, atol=1e-4)


def test_minmax_normalization_reaches_one_on_both_sides() -> None:
    x = torch.from_numpy(clustered(1000))
    quantizer = build_quantizer(12, num_steps=1, codebook_size=4, num_candidates=2)
    set_normalization(quantizer, x, "minmax")
    normalized = quantizer.normalize(x)
    assert float(normalized.min()) == pytest.approx(-1, abs=1e-5)
    assert float(normalized.max()) == pytest.approx(1, abs=1e-5)
    assert len(quantizer.data_mean.unique()) == 1


def test_no_normalization_leaves_vectors_as_they_are() -> None:
    x = torch.from_numpy(clustered(1000))
    quantizer = build_quantizer(12, num_steps=1, codebook_size=4, num_candidates=2)
    set_normalization(quantizer, x, "none")
    assert torch.equal(quantizer.normalize(x), x)
    with pytest.raises(ValueError, match="are all the same"):
        set_normalization(quantizer, torch.ones(5, 12), "none")


def test_without_iterations_kmeans_is_noise_with_the_moments_of_what_is_left() -> None:
    x = torch.from_numpy(clustered(2000))
    quantizer = build_quantizer(12, num_steps=3, codebook_size=256, num_candidates=2)
    residual = x.clone()
    part, silent = quantizer.parts[0], Progress(show=False)
    for codebook in kmeans_codebooks(part, x, _generator(), iterations=0, split_empty=True, progress=silent):
        torch.testing.assert_close(codebook.mean(0), residual.mean(0), rtol=0, atol=float(residual.std(0).max()) / 5)
        torch.testing.assert_close(codebook.std(0), residual.std(0, correction=0), rtol=0.2, atol=0)
        residual -= codebook[nearest_codeword(residual, codebook)]


def test_bad_training_vectors_are_refused() -> None:
    quantizer = build_quantizer(12, num_steps=1, codebook_size=4, num_candidates=2)
    x = torch.from_numpy(clustered(10))
    x[7, 3] = torch.nan
    with pytest.raises(ValueError, match="training vector 7 holds NaN"):
        set_normalization(quantizer, x, "standard")
    with pytest.raises(ValueError, match="are all the same"):
        set_normalization(quantizer, torch.ones(5, 12), "standard")


def test_paper_initialization() -> None:
    quantizer = QINCo(12, num_steps=3, codebook_size=16, embed_dim=8, hidden_dim=20, num_candidates=4)
    init_networks(quantizer, "paper", _generator())
    codebooks = [torch.randn((16, 12), generator=_generator()) for _ in range(3)]
    set_codebooks(quantizer, codebooks, noise=0.1, exact=False, generator=_generator())
    network = quantizer.residual_steps()[0].network
    for weight in (network.concat.weight, network.concat.bias, network.down[0].weight):
        assert not weight.any()
    assert network.in_proj is not None
    assert network.out_proj is not None
    for weight in (network.up[0].weight, network.in_proj.weight, network.out_proj.weight):
        bound = (6 / weight.shape[1]) ** 0.5  # Kaiming-uniform for relu
        assert 0.9 * bound < weight.detach().abs().max() <= bound
    noise = (quantizer.first_codebook - codebooks[0]).detach()
    assert float(noise.std() / codebooks[0].std()) == pytest.approx(0.1, rel=0.2)
    step = quantizer.residual_steps()[1]
    assert step.preselector is not None
    assert not torch.equal(step.codebook, step.preselector)  # two draws of noise on the same codebook
