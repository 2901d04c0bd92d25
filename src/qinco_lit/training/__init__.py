"""Training: `train()`, the LightningModule, its start, recipes, callbacks and a run's own record."""

from qinco_lit.training.recipe import Recipe

__all__ = ["Recipe"]
