"""The outputs of the notebooks: ``python docs/make_notebooks.py`` runs their cells and stores what they print and draw.

The cells are plain Python, so a Jupyter kernel and the twenty packages around it are not needed. Pictures are stored as
JPEG. On one thread the outputs are the same every time on one kind of processor.
"""

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import json
import pprint
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the code cells of a notebook, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def digest(notebook: dict[str, Any]) -> str:
    """Return a digest of the code cells and their outputs: it tells of code that changed after it was run."""
    kept = [["".join(cell["source"]), cell["execution_count"], cell["outputs"]] for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """Run the code cells in one namespace and in the current folder, and put their outputs into the notebook.

    Args:
        notebook: is changed.

    Returns:
        dict: the namespace that the cells leave.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for count, cell in enumerate(code_cells(notebook), 1):
        printed, value = _run_cell("".join(cell["source"]), f"code cell {count}", namespace)
        cell["execution_count"], cell["outputs"] = count, []
        if printed:
            cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": printed.splitlines(True)})
        if value is not None:
            result = {"execution_count": count, "metadata": {}, "output_type": "execute_result"}
            cell["outputs"].append({"data": _shown(value)} | result)
    notebook["metadata"]["outputs_digest"] = digest(notebook)
    return namespace


def _run_cell(code: str, name: str, namespace: dict[str, Any]) -> tuple[str, Any]:
    """Return what a cell prints, and the value of its last line if that is an expression."""
    tree = ast.parse(code, name)
    last, value = tree.body[-1] if tree.body else None, None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(tree.body[:-1], []), name, "exec"), namespace)
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        else:
            exec(compile(tree, name, "exec"), namespace)
    return printed.getvalue(), value


def _shown(value: object) -> dict[str, Any]:
    """Return a value as a notebook stores it: pictures as JPEG, everything else as text."""
    if not isinstance(value, Image.Image):
        return {"text/plain": pprint.pformat(value, width=100, sort_dicts=False).splitlines(True)}
    file = io.BytesIO()
    value.convert("RGB").save(file, "JPEG", quality=85, optimize=True)
    picture = base64.b64encode(file.getvalue()).decode()
    return {"image/jpeg": picture, "text/plain": [f"picture of {value.width} x {value.height} pixels"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=NOTEBOOKS, help="all of them if none is named")
    torch.set_num_threads(1)
    for file in parser.parse_args().notebooks:
        notebook = json.loads(file.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            run(notebook)
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
        file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
