"""bf16: gradients reach every weight, and the loss stays that of float32 within bf16's rounding."""

import torch

from tests.models import random_quantizer


def _gradients(autocast: bool) -> tuple[float, dict[str, torch.Tensor]]:
    quantizer = random_quantizer(
        16, num_steps=3, codebook_size=16, embed_dim=12, hidden_dim=24, num_blocks=2, num_candidates=4, beam_size=3
    )
    x = torch.randn((256, 16), generator=torch.Generator().manual_seed(0))
    codes = quantizer.encode(x)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        quantizer.encode(x)  # fills autocast's cache with weights that carry no gradient
        torch.clear_autocast_cache()
        losses = quantizer(x, codes)
        loss = losses.reconstruction.sum() + losses.preselector.sum()
    assert loss.dtype == torch.float32
    loss.backward()
    return loss.item(), {name: p.grad for name, p in quantizer.named_parameters() if p.grad is not None}


def test_half_precision_training_is_close_to_float32() -> None:
    loss, gradients = _gradients(autocast=True)
    expected_loss, expected = _gradients(autocast=False)
    assert gradients.keys() == expected.keys()
    assert len(gradients) == 1 + 2 * (2 + 2 + 2 + 4)  # codebooks, projections, concat, blocks
    assert abs(loss / expected_loss - 1) < 0.01
    for name, value in expected.items():
        assert (gradients[name] - value).norm() < 0.1 * value.norm(), name


def test_search_in_half_precision_loses_little() -> None:
    quantizer = random_quantizer(
        16, num_steps=4, codebook_size=32, hidden_dim=24, num_blocks=2, num_candidates=8, beam_size=4
    )
    x = torch.randn((500, 16), generator=torch.Generator().manual_seed(0))

    def error(codes: torch.Tensor) -> float:
        with torch.no_grad():
            *_, x_hat = quantizer.reconstructions(codes)
        return float((x - x_hat).square().sum(1).mean())

    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = quantizer.encode(x)
    assert error(codes) < 1.02 * error(quantizer.encode(x))
