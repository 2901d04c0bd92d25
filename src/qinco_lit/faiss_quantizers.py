"""Settings of faiss' product and residual quantizers: as baselines, in indexes, and as what a training must beat."""

from typing import Any

import faiss

# Of residual quantizers, those that a codec is measured against too. Database MSE on photo_sift (100k training vectors,
# 8 bytes, training beam 5, encoding beam 32) by Lloyd iterations and residuals per codeword: 10 and 256: 24.2k, 10 and
# 391: 23.6k, 25 and 391: 22.9k, 25 and 1024: 21.9k (encoding beam 16: 22.2k, 5: 23.0k). On another 100k SIFT a training
# beam of 16 or 1 was worse than 5, and faiss's default, training by progressive dimension, 2 % better for almost four
# times the time. Codebooks that are refined jointly after training belong to LSQ.
RQ_SETTINGS = {"kmeans_iterations": 25, "residuals_per_codeword": 1024, "train_beam_size": 5, "encode_beam_size": 32}
PQ_SETTINGS = {"kmeans_iterations": 25}
WORKSPACE_BYTES = 512 << 20  # faiss would take up to 5 GB for the table of distances of one encoding call


def prepare_kmeans(parameters: Any, *, most_per_codeword: int) -> None:
    """Set a quantizer's k-means; of more vectors per codeword some are drawn."""
    parameters.niter = PQ_SETTINGS["kmeans_iterations"]
    parameters.min_points_per_centroid = 1  # few vectors are the user's choice: no warning on the terminal
    parameters.max_points_per_centroid = most_per_codeword


def prepare_rq(rq: Any, *, num_rows: int = 0) -> None:
    """Set a `faiss.ResidualQuantizer` before its training, on all of `num_rows` vectors if they are so many."""
    per_codeword = -(-num_rows // (1 << int(rq.nbits.at(0))))
    prepare_kmeans(rq.cp, most_per_codeword=max(RQ_SETTINGS["residuals_per_codeword"], per_codeword))
    rq.train_type = faiss.ResidualQuantizer.Train_default
    rq.max_beam_size = RQ_SETTINGS["train_beam_size"]
    rq.use_beam_LUT = 1
    rq.max_mem_distances = WORKSPACE_BYTES


def widen_beam(rq: Any) -> None:
    """Vectors of the database are encoded with a wider beam than those of the training."""
    rq.max_beam_size = RQ_SETTINGS["encode_beam_size"]
    rq.compute_codebook_tables()
