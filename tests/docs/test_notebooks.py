"""The notebooks are stored with the outputs of the code that they show, and their cells run from top to bottom.

The cells are plain Python without magics. docs/make_notebooks.py runs them, here and to store the outputs, without a
Jupyter kernel.
"""

import base64
import copy
import json
import re

import pytest
from pages import make_notebooks

NOTEBOOKS = make_notebooks.NOTEBOOKS
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def read(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))


def outputs_of(content):
    return [output for cell in make_notebooks.code_cells(content) for output in cell["outputs"]]


def printed(content):
    return ["".join(output["text"]) for output in outputs_of(content) if output["output_type"] == "stream"]


def pictures(content):
    drawn = [output["data"]["image/jpeg"] for output in outputs_of(content) if "image/jpeg" in output.get("data", ())]
    return [base64.b64decode(picture) for picture in drawn]


def test_there_are_notebooks():
    assert {file.stem for file in NOTEBOOKS} == {"evaluate_your_maps", "localize_your_photo"}


@pytest.mark.slow
@each_notebook
def test_cells_run_and_show_what_is_stored(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = read(notebook)
    again = copy.deepcopy(stored)
    namespace = make_notebooks.run(again)
    kinds = [[sorted(output.get("data", ["stream"])) for output in outputs_of(content)] for content in (stored, again)]
    assert kinds[0] == kinds[1]
    if notebook.stem == "localize_your_photo":  # trained weights differ between processors in their last bits
        assert namespace["found"].class_names == ["plain_red_bird"]
        assert namespace["found"].overlay().size == (320, 320)
    else:
        assert printed(again) == printed(stored)


@each_notebook
def test_outputs_are_those_of_the_code(notebook):
    content = read(notebook)
    assert content["metadata"]["outputs_digest"] == make_notebooks.digest(content), (
        f"{notebook.name}: its code cells or outputs changed; run python docs/make_notebooks.py"
    )
    counts = [cell["execution_count"] for cell in make_notebooks.code_cells(content)]
    assert counts == list(range(1, len(counts) + 1))
    assert printed(content)
    assert pictures(content)


@pytest.mark.parametrize(("key", "value"), [("source", ["print(2)"]), ("outputs", []), ("execution_count", None)])
def test_digest_notices_changed_code_and_lost_outputs(key, value):
    content = {"cells": [{"cell_type": "code", "source": ["print(1)"]}], "metadata": {}}
    make_notebooks.run(content)
    before = content["metadata"]["outputs_digest"]
    assert before == make_notebooks.digest(content)
    content["cells"][0][key] = value
    assert make_notebooks.digest(content) != before


def test_cell_shows_what_it_prints_and_its_last_value():
    source = ["from PIL import Image\n", "print('one')\n", "Image.new('P', (4, 2))"]
    content = {"cells": [{"cell_type": "code", "source": source}, {"cell_type": "code", "source": ["x = 1"]}]}
    content["metadata"] = {}
    assert make_notebooks.run(content)["x"] == 1
    first, second = content["cells"]
    assert first["outputs"][0] == {"name": "stdout", "output_type": "stream", "text": ["one\n"]}
    assert first["outputs"][1]["data"]["text/plain"] == ["picture of 4 x 2 pixels"]
    assert pictures(content)[0].startswith(b"\xff\xd8")
    assert (second["outputs"], second["execution_count"]) == ([], 2)


@each_notebook
def test_notebook_is_small_and_names_no_place_of_a_machine(notebook):
    content = read(notebook)
    assert notebook.stat().st_size < 300_000
    assert max(map(len, pictures(content))) < 60_000
    assert set(content["metadata"]) == {"kernelspec", "language_info", "outputs_digest"}
    texts = printed(content) + [
        "".join(output["data"]["text/plain"]) for output in outputs_of(content) if "data" in output
    ]
    assert not [text for text in texts if re.search(r"(^|[\s'\"(=])/\w+/|[A-Z]:\\", text)]


@each_notebook
def test_notebook_has_no_magics(notebook):
    for cell in make_notebooks.code_cells(read(notebook)):
        assert not any(line.startswith(("%", "!")) for line in cell["source"])


@each_notebook
def test_links_lead_somewhere(notebook):
    text = "".join("".join(cell["source"]) for cell in read(notebook)["cells"])
    targets = re.findall(r"\]\((\.\./[\w./-]+)\)", text)
    assert targets
    for target in targets:
        assert (notebook.parent / target).exists(), target
