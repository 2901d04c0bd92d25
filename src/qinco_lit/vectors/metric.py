"""How vectors are compared: what `data.metric` may be."""

from typing import Literal, get_args

# l2: squared L2, smaller is nearer. ip: inner product, larger is nearer. cosine: the inner product of vectors that are
# normalised to unit length when they are read (`VectorFile.unit`).
Metric = Literal["l2", "ip", "cosine"]
METRICS: tuple[Metric, ...] = get_args(Metric)


def comparison(metric: Metric) -> Literal["l2", "ip"]:
    """What is computed of the vectors as they are read: the inner product for cosine, too."""
    return "l2" if metric == "l2" else "ip"
