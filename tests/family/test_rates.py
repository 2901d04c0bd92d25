"""Trained and measured: the numbers in the records are those of the codec in the folder, at every rate."""

import math

import numpy as np
import pytest

from tests.family.members import TRAIN, Walk, mse, recalls


def test_the_folder_holds_the_model_that_was_asked_for(walk: Walk) -> None:
    member, quantizer = walk.member, walk.codec.quantizer
    assert tuple(part.dim for part in quantizer.parts) == member.part_dims
    assert tuple(part.num_steps for part in quantizer.parts) == member.part_steps
    assert (walk.codec.num_steps, walk.codec.codebook_size) == (member.num_steps, member.codebook_size)
    assert walk.codec.bits_per_vector == member.bits == math.ceil(member.num_steps * math.log2(member.codebook_size))
    rotation = getattr(quantizer, "rotation", None)
    assert (rotation is not None) == ("opq=true" in member.options)
    if rotation is not None:
        np.testing.assert_allclose((rotation @ rotation.T).numpy(), np.eye(walk.codec.dim), atol=1e-5)
    low_rank = "model=qinco_lr" in member.options
    assert quantizer.config["concat_rank"] == (8 if low_rank else None)
    if member.has_lists:
        np.testing.assert_allclose(walk.codec.coarse_centroids, walk.rows("centroids"), rtol=1e-4, atol=1e-4)


def test_training_reports_the_error_of_the_codec_it_leaves(walk: Walk) -> None:
    summary, held_out = walk.read("summary.json"), walk.rows("train")[TRAIN:]
    found = walk.codec.encode(held_out)
    if walk.member.has_lists:
        list_ids, codes = found
        x_hat = walk.codec.decode(codes, list_ids=list_ids)
        # lists say something already, codes say more
        assert mse(held_out, x_hat) < mse(held_out, walk.rows("centroids")[list_ids])
    else:
        x_hat = walk.codec.decode(found)
    assert summary["best_val_mse"] == pytest.approx(mse(held_out, x_hat), rel=1e-4)
    numbers = {name: each.numel() for name, each in walk.codec.quantizer.named_parameters()}
    if walk.codec.quantizer.default_search.num_candidates == 0:
        # it needs no pre-selectors: they save time in training, and are fitted anew afterwards
        numbers = {name: number for name, number in numbers.items() if not name.endswith("preselector")}
    assert summary["parameters"] == sum(numbers.values())


def test_every_rate_is_that_of_prefixes_and_of_shorter_encodings(walk: Walk) -> None:
    base, queries = walk.rows("base"), walk.rows("queries")
    points = walk.metrics["rates"]["points"]
    assert [point["num_steps"] for point in points] == list(range(1, walk.member.num_steps + 1))
    for point in points:
        steps = point["num_steps"]
        bits = math.ceil(steps * math.log2(walk.member.codebook_size))
        assert point["bytes_per_vector"] == bits / 8
        both = {"prefix": walk.decoded(walk.codes[:, :steps]), "encoded": walk.encoded(steps)}
        for kind, x_hat in both.items():
            assert point[kind]["mse"] == pytest.approx(mse(base, x_hat), rel=1e-4)
            for k in (1, 10, 100):
                least, largest = recalls(queries, base, x_hat, k)
                assert least <= point[kind][f"recall_at_{k}"] <= largest
    codec, last = walk.metrics["methods"]["codec"], points[-1]
    assert last["prefix"]["mse"] == last["encoded"]["mse"] == codec["mse"] == codec["mse_per_step"][-1]
    assert codec["mse_per_step"] == [point["prefix"]["mse"] for point in points]
    assert codec["bytes_per_vector"] == walk.member.bits / 8


def test_a_shorter_search_never_knows_more_than_it_is_asked_for(walk: Walk) -> None:
    """One hypothesis: the search does not look ahead, and its first codes are those of the shorter search."""
    base = walk.rows("base")[:30]
    greedy = {"beam_size": 1, "num_candidates": 0}
    for steps in {walk.member.least_steps, walk.member.num_steps - 1}:
        found = walk.codec.encode(base, **greedy, num_steps=steps), walk.codec.encode(base, **greedy)
        shorter, whole = ((each if walk.list_ids is None else each[1]) for each in found)
        np.testing.assert_array_equal(shorter, whole[:, :steps])
