"""Vectors to codes by one search, as a graph of ONNX."""

from typing import NamedTuple

import torch

from qinco_lit.onnx_export.decoder import adapted, sliced
from qinco_lit.onnx_export.graph import Graph
from qinco_lit.quantizers import QINCo, Quantizer
from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.kmeans import half_squared_norms
from qinco_lit.quantizers.step import ResidualStep, StepTables


class _Beam(NamedTuple):
    """So many hypotheses per vector, best first."""

    width: int
    x_hat: str  # (n, width, dim)
    codes: str | None  # (n, width, steps); None before the first


class _Pairs(NamedTuple):
    """What a step tries: so many codewords on each hypothesis, or `number` on those of the beam that `parents` name."""

    number: int
    codes: str | None  # (n, width, per hypothesis) or (n, number); None: all, in order
    parents: str | None  # (n, number)


def encoder(quantizer: Quantizer, search: Search, num_steps: int, code_dtype: str) -> Graph:
    """`Codec.encode` of x (n, dim) float32 to codes (n, num_steps), and list_ids (n,) int32 of a model with lists."""
    graph = Graph()
    x = graph.input("x", "float32", quantizer.dim)
    if quantizer.rotation is not None:
        x = graph.linear(x, quantizer.rotation)
    x = graph.op("Div", graph.op("Sub", x, quantizer.data_mean), quantizer.data_std)
    starts: list[str | None] = [None] * len(quantizer.parts)
    if quantizer.coarse_centroids is not None:
        centroids = graph.constant(quantizer.coarse_centroids)
        list_ids = _nearest_list(graph, x, centroids, quantizer)
        graph.output("list_ids", list_ids, "int32")
        starts = [*sliced(graph, graph.op("Gather", centroids, list_ids), quantizer)]
    found, order = [], []
    for part, own, start, columns, tables in zip(
        quantizer.parts, sliced(graph, x, quantizer), starts, quantizer.part_columns, quantizer.tables(), strict=True
    ):
        reached = [column for column in columns if column < num_steps]
        if reached:
            found.append(_part(graph, part, own, start, search, tables, len(reached)))
            order += reached
    codes = found[0]
    if len(found) > 1:
        codes = graph.op("Concat", *found, axis=1)
        codes = graph.op("Gather", codes, [order.index(column) for column in range(num_steps)], axis=1)
    graph.output("codes", codes, code_dtype, num_steps)
    return graph


def _nearest_list(graph: Graph, x: str, centroids: str, quantizer: Quantizer) -> str:
    """`Quantizer.assign_lists`: the nearest centroid in raw space, where parts may have their own scales."""
    own = quantizer.coarse_centroids
    assert own is not None
    if len(quantizer.parts) > 1:
        x = graph.op("Mul", x, quantizer.data_std.square())  # the centroids as they are serve as starts, too
        own = own * quantizer.data_std
    return graph.op("ArgMin", graph.half_squared_l2(x, centroids, half_squared_norms(own)), axis=1, keepdims=0)


def _part(
    graph: Graph, part: QINCo, x: str, start: str | None, search: Search, tables: list[StepTables], num_steps: int
) -> str:
    """`QINCo.encode`: codes (n, num_steps) of a part."""
    tables = tables[: num_steps if part.has_start else num_steps - 1]
    beam = _first_beam(graph, part, x, start, search.beam_size if tables else 1)
    for index, (step, table) in enumerate(zip(part.residual_steps(), tables, strict=False), start=1):
        last = index == len(tables)
        own = search.for_step(first_of_list=index == 1 and part.has_start, last=last)
        beam = _step(graph, step, x, beam, own, table, last=last)
    assert beam.codes is not None
    return graph.op("Gather", beam.codes, 0, axis=1)


def _first_beam(graph: Graph, part: QINCo, x: str, start: str | None, beam_size: int) -> _Beam:
    if start is not None:
        return _Beam(1, graph.op("Unsqueeze", start, [1]), None)
    first = part.first_codebook
    assert first is not None
    codebook, width = graph.constant(first), min(beam_size, len(first))
    codes = graph.smallest(graph.half_squared_l2(x, codebook, half_squared_norms(first)), width)
    return _Beam(width, graph.op("Gather", codebook, codes), graph.op("Unsqueeze", codes, [2]))


def _step(
    graph: Graph, step: ResidualStep, x: str, beam: _Beam, search: Search, tables: StepTables, *, last: bool
) -> _Beam:
    """`ResidualStep.search`: the best pairs of hypothesis and codeword."""
    weights, terms, codewords = tables.exact
    residual = graph.op("Sub", graph.op("Unsqueeze", x, [1]), beam.x_hat)
    pairs = _candidates(graph, step, residual, beam.width, search, tables)

    def of_codewords(table: torch.Tensor) -> str:
        return graph.constant(table) if pairs.codes is None else graph.op("Gather", table, pairs.codes)

    def of_hypotheses(rows: str) -> str:
        return graph.op("Unsqueeze", rows, [2]) if pairs.parents is None else graph.picked(rows, pairs.parents)

    context = graph.linear(beam.x_hat, weights.context)
    stream = graph.op("Add", of_codewords(terms.stream), of_hypotheses(context))
    first_hidden = graph.linear(context, weights.up[0])
    hidden = graph.op("Add", of_codewords(terms.hidden), of_hypotheses(first_hidden))
    added = adapted(graph, weights, stream, hidden, None if codewords is None else of_codewords(codewords))
    error = graph.op("Sub", of_hypotheses(residual), added)
    squared_l2 = graph.op("Reshape", graph.op("ReduceSumSquare", error, [-1], keepdims=0), [0, pairs.number])
    width = 1 if last else min(search.beam_size, pairs.number)
    best = graph.smallest(squared_l2, width)
    parents, codes = _chosen(graph, pairs, best, pairs.number // beam.width, len(step.codebook))
    x_hat = beam.x_hat
    if not last:  # after it nothing asks for reconstructions
        added = graph.op("Reshape", added, [0, pairs.number, weights.context.shape[1]])
        x_hat = graph.op("Add", graph.picked(beam.x_hat, parents), graph.picked(added, best))
    codes = graph.op("Unsqueeze", codes, [2])
    if beam.codes is not None:
        codes = graph.op("Concat", graph.picked(beam.codes, parents), codes, axis=2)
    return _Beam(width, x_hat, codes)


def _candidates(
    graph: Graph, step: ResidualStep, residual: str, width: int, search: Search, tables: StepTables
) -> _Pairs:
    """`ResidualStep.candidates`: what to try on the hypotheses."""
    size = len(step.codebook)
    if search.tries_all:
        return _Pairs(width * size, None, None)
    assert step.preselector is not None
    assert tables.preselector_half_norms is not None
    score = graph.op("Sub", tables.preselector_half_norms, graph.linear(residual, step.preselector))
    if search.candidate_budget is None:
        return _Pairs(width * search.num_candidates, graph.smallest(score, search.num_candidates), None)
    number = min(search.candidate_budget, width * size)
    half_norms = graph.op("Mul", graph.op("ReduceSumSquare", residual, [-1]), 0.5)
    score = graph.op("Reshape", graph.op("Add", score, half_norms), [0, width * size])
    best = graph.smallest(score, number)
    return _Pairs(number, graph.op("Mod", best, size), graph.op("Div", best, size))


def _chosen(graph: Graph, pairs: _Pairs, best: str, per_hypothesis: int, codebook_size: int) -> tuple[str, str]:
    """`Pairs.chosen`: hypotheses and codes of some pairs."""
    if pairs.codes is None:
        return graph.op("Div", best, codebook_size), graph.op("Mod", best, codebook_size)
    codes = graph.op("GatherElements", graph.op("Reshape", pairs.codes, [0, pairs.number]), best, axis=1)
    if pairs.parents is None:
        return graph.op("Div", best, per_hypothesis), codes
    return graph.op("GatherElements", pairs.parents, best, axis=1), codes
