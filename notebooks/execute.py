"""Run notebooks/tour.ipynb and keep what comes out in it, without Jupyter.

    .venv/bin/python notebooks/execute.py [NOTEBOOK]

A cell's outputs are what it prints, the value of its last line, and the figures of matplotlib that it leaves open.
"""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

TOUR = Path(__file__).with_name("tour.ipynb")


def execute(notebook: dict[str, Any], given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the cells of code in order, put their outputs into the notebook, and return the names that they made.

    Args:
        notebook: as JSON holds it.
        given: names that replace those of the cell tagged `parameters`, once it has run.
    """
    mpl.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        cell["execution_count"], cell["outputs"] = number, list(_run("".join(cell["source"]), number, names))
        if "parameters" in cell["metadata"].get("tags", []):
            names |= given or {}
    return names


def _run(source: str, number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    from matplotlib import pyplot

    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    for figure in map(pyplot.figure, pyplot.get_fignums()):
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=80)
        data = {"image/png": base64.b64encode(image.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    pyplot.close("all")
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        result = {"output_type": "execute_result", "execution_count": number, "data": data, "metadata": {}}
        outputs.append(result)
    return outputs


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else TOUR
    content = json.loads(path.read_text())
    execute(content)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
