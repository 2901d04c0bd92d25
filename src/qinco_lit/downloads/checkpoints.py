"""The checkpoints that the papers' authors published: names and urls. Their sizes are stated nowhere."""

from dataclasses import dataclass
from itertools import product

_MODELS = "https://dl.fbaipublicfiles.com/QINCo/qinco2-models"
_PLAIN_SETS = ("bigann1M", "deep1M", "contriever1M", "FB_ssnpp1M")
_IVF_SETS = {"bigann1B": 128, "deep1B": 96}  # dimensions


@dataclass(frozen=True)
class Checkpoint:
    """One published file, for `qinco import`.

    `num_rows` and `dim` are those of a matrix of centroids, None for a model.
    """

    file_name: str
    description: str
    num_rows: int | None = None
    dim: int | None = None

    @property
    def url(self) -> str:
        """Where it was published."""
        return f"{_MODELS}/{self.file_name}"

    @property
    def size_bytes(self) -> int | None:
        """Of centroids, about: the published ones are taken to be float32."""
        return None if self.num_rows is None or self.dim is None else 128 + 4 * self.num_rows * self.dim


def _models() -> list[Checkpoint]:
    plain = product({"qinco1": "QINCo1", "qinco2_L": "QINCo2-L"}.items(), _PLAIN_SETS, (8, 16))
    ivf = product("SM", _IVF_SETS, (8, 16, 32))
    return [
        *(Checkpoint(f"{name}-{data}-{m}x8.pt", f"{paper}, {data}, {m} bytes") for (name, paper), data, m in plain),
        *(
            Checkpoint(f"IVF-qinco2_{size}-{data}-{m}x8.pt", f"QINCo2-{size} with 2^20 lists, {data}, {m} bytes")
            for size, data, m in ivf
        ),
    ]


def _centroids() -> list[Checkpoint]:
    return [
        Checkpoint(f"ivf_centroids_{data}_1048576.npy", f"2^20 coarse centroids, {data}", 1 << 20, dim)
        for data, dim in _IVF_SETS.items()
    ]


CHECKPOINTS = {checkpoint.file_name.rpartition(".")[0]: checkpoint for checkpoint in (*_models(), *_centroids())}
