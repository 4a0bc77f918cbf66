"""The notebooks run from top to bottom, cell by cell in one namespace, in an empty folder.

Their cells are plain Python without magics, so no kernel is needed and none is installed for this.
"""

import json
import re

import pytest
from pages import DOCS

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def read(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))


def code_of(notebook):
    return ["".join(cell["source"]) for cell in read(notebook)["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for i, code in enumerate(code_of(notebook)):
        exec(compile(code, f"{notebook.name}, code cell {i}", "exec"), namespace)
    if notebook.stem == "localize_your_photo":
        assert len(namespace["found"].boxes) == 3
        assert namespace["found"].overlay().size == (384, 384)
    else:
        assert 0 < namespace["found"]["gt_known_loc"] <= 100
        assert len(set(namespace["table"].values())) > 1  # protocols differ


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_outputs_and_no_magics(notebook):
    for cell in read(notebook)["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert not any(line.startswith(("%", "!")) for line in cell["source"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(notebook):
    text = "".join("".join(cell["source"]) for cell in read(notebook)["cells"])
    for target in re.findall(r"\]\((\.\./[\w./-]+)\)", text):
        assert (notebook.parent / target).exists(), target
