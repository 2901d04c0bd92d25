"""Laws of passages and queries: what is taken of documentation strings, and that nothing is imported for it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.docs_passages import collect, docstrings, passages_of, queries_of, source_files
from qinco_lit.progress import Progress

SENTENCE = "This sentence is exactly as long as it takes to be a passage of its own in the data set."
NUMPYDOC = f"""Fit the model to data.

    {SENTENCE} {SENTENCE} Short end.

    Parameters
    ----------
    x : array_like of shape (rows, columns)
        The rows that the model is fitted to, each with a weight of one.
    y : int
        Too short.

    >>> fit(x)   # no sentence, however long the line of code is that somebody has written there

    .. math:: the directive is left out, with everything that stands in it, as it is no sentence at all
    """
GOOGLE = """Load it.

    Args:
        path: of the file that :func:`~package.save` has written, or of a folder that has ``one`` of them.
        mode: how
    """


def test_passages_are_whole_sentences_of_a_paragraph():
    assert list(passages_of("fit", NUMPYDOC)) == [
        SENTENCE,
        SENTENCE,
        "x : array_like of shape (rows, columns) The rows that the model is fitted to, each with a weight of one.",
    ]


def test_short_sentences_are_taken_together_and_what_is_left_is_dropped():
    text = "One short sentence. Another one follows it. And a third, which makes it long enough at last. Rest."
    assert list(passages_of("", text)) == [text.removesuffix(" Rest.")]


def test_markup_is_taken_off():
    (passage,) = passages_of("load", GOOGLE)
    assert passage == "path: of the file that package.save has written, or of a folder that has one of them. mode: how"


@pytest.mark.parametrize(
    "text", ["a = b + c[1:2] * (d - 3) / f(0) ** 2; " * 4, "word " * 20 + "\x00", "word " * 20 + "\ud800"]
)
def test_formulas_and_what_no_text_file_can_hold_are_no_passages(text):
    assert list(passages_of("", text)) == []


def test_queries_are_first_sentences_and_names_of_several_words():
    assert list(queries_of("fit_transform", NUMPYDOC)) == ["Fit the model to data.", "fit transform"]
    assert list(queries_of("LinearSVCModel2D", "Short.")) == ["linear svc model 2 d"]
    assert list(queries_of("fit", "")) == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed distribution that must not be imported."""
    files = {
        "forbidden/__init__.py": f'"""{SENTENCE}"""\nraise SystemExit("imported")\n',
        "forbidden/nested.py": f'class A:\n  def f(self):\n    async def g():\n      """{SENTENCE[:-1]}?"""\n'
        f'if True:\n    pass\nelse:\n    def h():\n        "{SENTENCE[:-1]}!\\d"\n',
        "forbidden/broken.py": "def (:\n",
        "forbidden/tests/test_it.py": f'"""Tested. {SENTENCE}"""\n',
        "forbidden/data.txt": "no code",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name, record in (("forbidden", "".join(f"{name},,\n" for name in files)), ("unlisted", None)):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if record is not None:
            (info / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "forbidden"


def draw(package, num_texts, seed=0, **options):
    return collect(
        (package,), num_texts, passages_of, np.random.default_rng(seed), progress=Progress(show=False), **options
    )


def test_files_are_parsed_and_never_imported(package):
    names = [file.name for file in source_files(package)]
    assert names == ["__init__.py", "broken.py", "nested.py"]
    assert sorted(draw(package, 3)) == sorted([SENTENCE, f"{SENTENCE[:-1]}?", f"{SENTENCE[:-1]}!\\d"])
    assert package not in sys.modules


def test_names_and_strings_of_nested_definitions_are_found(package):
    assert [name for name, _ in docstrings(source_files(package)[2])] == ["g", "h"]


def test_texts_of_another_part_are_left_out(package):
    assert SENTENCE not in draw(package, 2, without=frozenset([SENTENCE]))
    with pytest.raises(ValueError, match=r"^docs_text: 2 texts in forbidden, not 3: ask for fewer rows$"):
        draw(package, 3, without=frozenset([SENTENCE]))


def test_an_installation_that_lists_no_files_is_named(package):
    with pytest.raises(
        ValueError, match=r"^docs_text: the installation of unlisted lists no files: install it with pip$"
    ):
        source_files("unlisted")


def test_a_small_set_reads_few_files_and_draws_from_several(tmp_path, monkeypatch):
    read = []

    def of_file(path):
        read.append(path)
        return [("", f"{path} {number}") for number in range(10)]

    monkeypatch.setattr("datamodules.docs_passages.source_files", lambda _: [Path(str(n)) for n in range(100)])
    monkeypatch.setattr("datamodules.docs_passages.docstrings", of_file)
    texts = collect(("x",), 15, lambda _, text: [text], np.random.default_rng(0), progress=Progress(show=False))
    assert len(set(texts)) == 15
    assert len(read) == 6
    assert len({text.split()[0] for text in texts}) > 2
