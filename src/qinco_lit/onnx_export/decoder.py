"""Codes to vectors, as a graph of ONNX."""

from qinco_lit.onnx_export.graph import Graph
from qinco_lit.quantizers import QINCo, Quantizer
from qinco_lit.quantizers.network import Weights
from qinco_lit.quantizers.step import StepTables


def decoder(quantizer: Quantizer, num_steps: int, code_dtype: str) -> Graph:
    """`Codec.decode` of codes (n, num_steps), with list_ids (n,) int32 of a model with lists, to x_hat (n, dim)."""
    graph = Graph()
    codes = graph.cast(graph.input("codes", code_dtype, num_steps), "int32")
    starts: list[str | None] = [None] * len(quantizer.parts)
    if quantizer.coarse_centroids is not None:
        centroids = graph.op("Gather", quantizer.coarse_centroids, graph.input("list_ids", "int32"))
        starts = [*sliced(graph, centroids, quantizer)]
    parts = zip(quantizer.parts, starts, quantizer.part_columns, quantizer.tables(), strict=True)
    decoded = [
        _part(graph, part, start, codes, [column for column in columns if column < num_steps], tables)
        for part, start, columns, tables in parts
    ]
    normal = decoded[0] if len(decoded) == 1 else graph.op("Concat", *decoded, axis=1)
    x_hat = graph.op("Add", graph.op("Mul", normal, quantizer.data_std), quantizer.data_mean)
    if quantizer.rotation is not None:
        x_hat = graph.op("MatMul", x_hat, quantizer.rotation)
    graph.output("x_hat", x_hat, "float32", quantizer.dim)
    return graph


def sliced(graph: Graph, x: str, quantizer: Quantizer) -> list[str]:
    """The dimensions of each part, of whole vectors."""
    return [x] if len(quantizer.parts) == 1 else [graph.columns(x, dims) for dims in quantizer.part_slices]


def adapted(graph: Graph, weights: Weights, stream: str, hidden: str, codewords: str | None) -> str:
    """`Weights.adapt`: what a step adds to the reconstruction, for summed terms."""
    for block, down in enumerate(weights.down):
        if block > 0:
            hidden = graph.linear(stream, weights.up[block])
        stream = graph.op("Add", stream, graph.linear(graph.op("Relu", hidden), down))
    added = stream if weights.out_proj is None else graph.linear(stream, weights.out_proj)
    return added if codewords is None else graph.op("Add", added, codewords)


def _part(
    graph: Graph, part: QINCo, start: str | None, codes: str, columns: list[int], tables: list[StepTables]
) -> str:
    """Normalised reconstruction of a part by the codes in these columns; without any it is at its mean."""
    x_hat, steps = start, iter(tables)
    for column in columns:
        own = graph.op("Gather", codes, graph.constant(column), axis=1)
        if x_hat is None:
            assert part.first_codebook is not None
            x_hat = graph.op("Gather", part.first_codebook, own)
            continue
        weights, terms, codewords = next(steps).exact
        stream = graph.op("Add", graph.op("Gather", terms.stream, own), graph.linear(x_hat, weights.context))
        chosen = None if codewords is None else graph.op("Gather", codewords, own)
        added = adapted(graph, weights, stream, graph.linear(stream, weights.up[0]), chosen)
        x_hat = graph.op("Add", x_hat, added)
    if x_hat is None:
        shape = graph.op("Concat", graph.op("Shape", codes, end=1), [part.dim], axis=0)
        return graph.op("ConstantOfShape", shape)
    return x_hat
