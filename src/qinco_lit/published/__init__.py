"""Published checkpoints: read without running any code they hold, and written back."""

from qinco_lit.published.export import export_checkpoint
from qinco_lit.published.importing import import_checkpoint, read_centroids, write_centroids
from qinco_lit.published.qinco1_release import Qinco1Model, read_qinco1_release
from qinco_lit.published.qinco2_layout import published_names

__all__ = [
    "Qinco1Model",
    "export_checkpoint",
    "import_checkpoint",
    "published_names",
    "read_centroids",
    "read_qinco1_release",
    "write_centroids",
]
