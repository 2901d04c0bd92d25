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
        # the search does not round for autocast, nor leave weights without gradients in its cache
        torch.testing.assert_close(quantizer.encode(x), codes, rtol=0, atol=0)
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
        assert (gradients[name] - value).norm() < 0.05 * value.norm(), name
