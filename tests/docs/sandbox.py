"""What the texts show, as something to do: blocks of pages, and command lines made small enough for a test."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qinco_lit.vectors import write_vectors
from tests.artefacts import DIM, SMALL, clustered

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]*?) -->\n)?^```(?P<kind>bash|python)\n(?P<text>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
# what is chosen in texts by its name, and here is a small file; a codec with lists trains on it, too
_FILES = ["data=files", "data.train=train.npy", "data.database=base.npy", "data.queries=queries.npy"]
_EMBEDDED = ("data=photo_sift", "data=docs_text")
_PAPERS = re.compile(r"data=(bigann|deep1b|contriever|fb_ssnpp)$")
# appended to command lines, so that they win
_MADE_SMALL = {
    "train": [
        "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.devices=1", "logger=none",
        "model.num_steps=4", "recipe.batch_size=256",
        *(f"model.{name}={value}" for name, value in SMALL.items() if name != "batch_size"),
    ],
    "plan": ["seconds=0.01", "model.num_steps=2", "model.codebook_size=32", "model.embed_dim=8", "model.hidden_dim=8"],
    "centroids": ["num_lists=4"],
    "index": ["num_training=250"],
    "search": [
        "nprobe=[2]", "ef_search=[8]", "num_additive=[20]", "num_pairwise=[0]",
        "repeats=1", "latency_queries=2", "warmup=0", "recall_at=[1,10]"],
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Of a page: its first line there, bash or python, its text, what is shown to come out, why it is not run."""

    line: int
    kind: str
    text: str
    output: str | None
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """All blocks of bash and python."""
    text = page.read_text()
    return [
        Block(text[: match.start("text")].count("\n") + 1, *match.group("kind", "text", "output", "reason"))
        for match in _BLOCK.finditer(text)
    ]


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each line of a shell, without comments; continued lines are one."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def arguments(words: list[str]) -> list[str] | None:
    """Of `qinco …`, `python train.py …` and the like, the arguments of qinco; None for other programs."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    words = [word.removeprefix(".venv/bin/") for word in words]
    if words[:1] == ["qinco"]:
        return words[1:]
    return ["train", *words[2:]] if words[:2] == ["python", "train.py"] else None


def needs_data(words: list[str]) -> bool:
    """Whether a command line is of data that are not here."""
    return any(_PAPERS.match(word) for word in words)


def small(words: list[str]) -> list[str]:
    """A command line of qinco with small data and models."""
    job, *rest = words
    if job in ("train", "evaluate", "index", "search") and not any(word.startswith("data=") for word in rest):
        rest.append("data=photo_sift")
    rest = [
        each
        for word in rest
        for each in (_FILES if word in _EMBEDDED else ["coarse.num_lists=4"] if "coarse.num_lists" in word else [word])
        if not each.startswith(("trainer.devices=", "data.num_val=", "data.limit_train="))
    ]
    kept = ["data.num_val=100"] if any(word.startswith("data.train=") for word in rest) else []
    return [job, *rest, *kept, *_MADE_SMALL.get(job, [])]


def fill(folder: Path) -> None:
    """Put files of vectors of every kind that texts name into a folder."""
    vectors = clustered(400, seed=1)
    for name in ("mine.npy", "base.npy", "base.fvecs", "database.npy"):
        write_vectors(folder / name, vectors)
    for name in ("train.npy", "train.fvecs"):
        write_vectors(folder / name, clustered(500))
    write_vectors(folder / "base.bvecs", (20 * (vectors + 5)).clip(0, 255).astype(np.uint8))
    write_vectors(folder / "queries.npy", clustered(8, seed=2))
    (folder / "emb").mkdir()
    for part, rows in enumerate((range(250), range(250, 400))):
        numbers = pa.array(vectors[rows.start : rows.stop].astype(np.float16).ravel())
        table = pa.table({"id": [1000 + row for row in rows], "vec": pa.FixedSizeListArray.from_arrays(numbers, DIM)})
        pq.write_table(table, folder / "emb" / f"part-{part}.parquet")
