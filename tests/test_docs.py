"""The pages: links lead somewhere, what texts name is there, nothing was left to be filled in; files are short."""

import ast
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import qinco_lit as ql
from benchmarks import front_door

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")),
    *(ROOT / "docs").glob("*.md"),
]
SPEAKING = [  # of modules and files, in comments, docstrings and texts
    *PAGES,
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
    ROOT / "tests" / "golden" / "README.md",
    *sorted(path for folder in ("conf", "sweeps") for path in (ROOT / folder).rglob("*.yaml")),
    *sorted(path for folder in ("src", "datamodules", "benchmarks") for path in (ROOT / folder).rglob("*.py")),
]
GROUPS = ("model", "recipe", "trainer", "coarse", "logger", "slurm")  # data: each set has options of its own


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue  # the network is not asked
        file, _, anchor = target.partition("#")
        there = page if not file else (page.parent / file).resolve()
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(there), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert not re.findall(r"@[A-Z_]+@", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_whole(page: Path) -> None:
    """A heading, a line of dashes, and rows of as many cells: a blank line between rows would end the table."""
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
        rows = table.splitlines()
        assert len(rows) > 2, rows[0]
        assert re.fullmatch(r"[|:-]+", rows[1].replace(" ", "")), rows[0]
        cells = {len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in rows}
        assert len(cells) == 1, rows[0]


@cache
def _names(file: Path) -> set[str]:
    """What a module defines, imports, or offers as a string (the lazy imports of qinco_lit)."""
    tree = ast.parse(file.read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return names | {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _is_there(dotted: str) -> bool:
    """Whether qinco_lit.a.b.name leads to a package, a module or something that the module has."""
    first, *rest = dotted.split(".")
    place = {"qinco_lit": ROOT / "src" / "qinco_lit", "datamodules": ROOT / "datamodules"}[first]
    while rest and (place / rest[0]).is_dir():
        place /= rest.pop(0)
    module = place / "__init__.py"
    if rest and (place / f"{rest[0]}.py").exists():
        module = place / f"{rest.pop(0)}.py"
    return not rest or rest[0].startswith("__") or (module.exists() and rest[0] in _names(module))


def test_modules_and_what_is_in_them_are_there_under_the_names_that_texts_use() -> None:
    pattern = re.compile(r"(?<![\w./-])(?:qinco_lit|datamodules)(?:\.[A-Za-z_]\w*)+")
    gone = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in SPEAKING
        for name in sorted(set(pattern.findall(file.read_text())))
        if not _is_there(name)
    ]
    assert not gone


def test_what_snippets_and_benchmarks_import_is_there() -> None:
    imports = re.compile(r"from ((?:qinco_lit|datamodules)[\w.]*) import ([\w, ]+)")
    public = {f"qinco_lit.{name}" for page in PAGES for name in re.findall(r"\bql\.(\w+)", page.read_text())}
    for file in [*PAGES, *(ROOT / "benchmarks").glob("*.py")]:
        for module, names in imports.findall(file.read_text()):
            public |= {f"{module}.{name.split(' as ')[0].strip()}" for name in names.split(",") if name.strip()}
    assert len(public) > 20
    assert not [name for name in sorted(public) if not _is_there(name)]


def _snippets(page: Path) -> Iterator[str]:
    """Fenced Python; lines of indented blocks that call ours, without what is said behind them."""
    yield from re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^    (.*\b(?:ql|codec|searcher)\.\w+\(.*)$", page.read_text(), re.MULTILINE):
        yield re.split(r"   +| ->", line)[0]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "architecture.md"], ids=lambda page: page.name)
def test_calls_in_snippets_fit_what_they_call(page: Path) -> None:
    objects = {"ql": ql, "codec": ql.Codec, "searcher": ql.Searcher, "Searcher": ql.Searcher, "Codec": ql.Codec}
    for snippet in _snippets(page):
        for call in (node for node in ast.walk(ast.parse(textwrap.dedent(snippet))) if isinstance(node, ast.Call)):
            if not isinstance(call.func, ast.Attribute) or not isinstance(call.func.value, ast.Name):
                continue
            if (home := objects.get(call.func.value.id)) is None:
                continue
            called = (
                inspect.getattr_static(home, call.func.attr, None) if home is not ql else getattr(ql, call.func.attr)
            )
            assert called is not None, ast.unparse(call)
            of_instance = [None] if inspect.isfunction(called) and home is not ql else []
            function = called.__func__ if isinstance(called, classmethod) else called
            of_instance += [None] if isinstance(called, classmethod) else []
            keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            inspect.signature(function).bind(*of_instance, *(None for _ in call.args), **keywords)


def test_python_files_that_texts_name_are_there() -> None:
    gone = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in SPEAKING
        for name in sorted(set(re.findall(r"(?<![\w/*.])(?:[\w-]+/)*[\w-]+\.py\b", file.read_text())))
        if not any((place / name).exists() for place in (ROOT, ROOT / "src", ROOT / "src" / "qinco_lit", file.parent))
    ]
    assert not gone


def test_pages_that_texts_name_are_there() -> None:
    """Links of pages are checked above; `docs/codes.md` in a comment or a help text is none."""
    gone = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in SPEAKING
        for name in sorted(set(re.findall(r"(?<![\w/.])(?:docs|benchmarks)/[\w-]+\.(?:md|py|png)\b", file.read_text())))
        if not (ROOT / name).exists()
    ]
    assert not gone


def test_tables_of_the_architecture_name_what_is_there() -> None:
    """`room/file.py: name`, `room`, `name()`, `Class.name` and `room/file.py`."""
    source = ROOT / "src" / "qinco_lit"
    rooms = [*source.rglob("*.py"), *(ROOT / "datamodules").glob("*.py")]
    known = {"datamodules"}.union(*({room.stem, room.parent.name} | _names(room) for room in rooms))
    lines = [line for line in (ROOT / "docs" / "architecture.md").read_text().splitlines() if line.startswith("| ")]
    for line in lines:
        for file, name in re.findall(r"`([\w/]+\.py): (\w+)`", line):
            assert name in _names(source / file), line
        for name in re.findall(r"`(?:[A-Za-z_]+\.)?([A-Za-z_]{3,})(?:\(\))?`", line):
            assert name in known, f"{name}: {line}"
        for name in re.findall(r"`((?:[\w-]+/)+[\w.*-]*)", line):
            assert any(list(place.glob(name)) for place in (ROOT, ROOT / "src", source)), f"{name}: {line}"
    assert len(lines) > 50


def test_every_room_has_a_row() -> None:
    """Of the first table of docs/architecture.md; nothing but the public API lies beside the rooms."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("## Interfaces between the rooms")[0]
    named = {name for row in re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    source = ROOT / "src" / "qinco_lit"
    rooms = {path.name for path in source.iterdir() if (path / "__init__.py").exists()}
    rooms |= {path.stem for path in source.glob("*.py")} - {"__init__"}
    assert rooms - {"conf"} | {"datamodules"} == named


@cache
def _options(job: str = "*") -> set[str]:
    """Of one job, or of all."""
    files = sorted((ROOT / "tests" / "cli").glob(f"options_{job}.txt"))
    return {option for file in files for option in file.read_text().split()}


def test_options_of_groups_that_texts_name_are_there() -> None:
    pattern = re.compile(rf"(?<![\w./+-])((?:{'|'.join(GROUPS)})\.[a-z_]+)(?==)")
    texts = [
        *PAGES,
        ROOT / "Makefile",
        *sorted((ROOT / "conf").rglob("*.yaml")),
        *sorted((ROOT / "sweeps").rglob("*.yaml")),
    ]
    gone = [
        f"{file.relative_to(ROOT)}: {option}"
        for file in texts
        if file.name != "CHANGELOG.md"  # which names what is gone
        for option in sorted(set(pattern.findall(file.read_text())) - _options())
    ]
    assert not gone


def test_options_of_command_lines_are_those_of_their_command() -> None:
    command = re.compile(
        r"(?:qinco (train|evaluate|plan|centroids|encode|decode|index|search|reproduce)|train\.py)((?: +\S+)+)"
    )
    for page in SPEAKING:
        if page.name == "CHANGELOG.md":
            continue
        for line in page.read_text().replace("\\\n", " ").splitlines():
            for job, arguments in command.findall(re.sub(r"`[^`]*$", "", line)):
                known = _options(job or "train")
                for option in re.findall(r"(?<=[ '])([a-z_][a-z_.]*)=", re.split(r"  +#|`|   +|;|\|\|", arguments)[0]):
                    groups = {"data", "model", "recipe", "coarse", "logger", "scale", "launcher", "ablation", "opq"}
                    assert option in known | groups or option.startswith("hydra."), f"{page.name}: {line}"


def test_arguments_of_tools_are_those_of_their_tool() -> None:
    files = {path.stem: path for path in (ROOT / "src" / "qinco_lit" / "commands").glob("*.py")}
    files |= {name.removesuffix("_checkpoint"): path for name, path in files.items()}
    for page in SPEAKING:
        for tool, arguments in re.findall(r"qinco ([a-z-]+)((?: +[^\s`]+)+)", page.read_text()):
            for option in set(re.findall(r"--([a-z-]+)", arguments)) - {"help", "cfg"}:
                here = files.get(tool.replace("-", "_"))
                assert here is not None, f"{page.name}: {tool}"
                assert f'"--{option}"' in here.read_text(), f"{page.name}: {tool} --{option}"


def test_hydras_internals_are_imported_in_one_room() -> None:
    users = {
        path.name for path in (ROOT / "src" / "qinco_lit").rglob("*.py") if "from hydra._internal" in path.read_text()
    }
    assert users == {"hydra_adapter.py"}


def test_no_file_is_longer_than_the_house_allows() -> None:
    files = [path for folder in ("src", "datamodules", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > 350}


def test_the_version_is_the_same_wherever_it_is_said() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    released = re.findall(r"^## (\d[\d.]*) \(\d{4}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert [project] == released[:1] == cited


def test_the_table_of_readme_is_that_of_its_figures() -> None:
    made = front_door.table(json.loads((ROOT / "docs" / "figures.json").read_text()))
    assert front_door.with_table((ROOT / "README.md").read_text(), made) == (ROOT / "README.md").read_text()


def test_every_page_has_a_place_on_the_site() -> None:
    """`make docs` finds what leads nowhere; a page that is missing in the menu would be a warning there."""
    listed = re.findall(r": ([a-z_]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(set(listed)) == len(listed)
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    outside = {"index.md", "changelog.md", "contributing.md", "measurements.md", "reproduced_small.md"}
    assert set(listed) - pages == outside
    assert pages < set(listed)
