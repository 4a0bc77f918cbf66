"""The commands of the pages, line by line in the order in which they stand."""

import shlex
import shutil

import pytest
from pages import DOCS, PAGES, blocks

from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.recipe import load_recipe

# Typed in elsewhere, or for several machines.
LEFT_OUT = {"extending.md", "reliability.md"}
SCRIPTS = [
    pytest.param(block, id=f"{page.relative_to(DOCS)}-{i}")
    for page in PAGES
    if page.name not in LEFT_OUT
    for i, block in enumerate(blocks(page.relative_to(DOCS), "bash"))
]
# What a reader brings: understood up to the missing file or folder.
NEEDS = ("/data/", "DIR", "photo.jpg", "runs/birds/")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as the demo leaves it, from a much shorter training."""
    small = "data.options={num_train=8,num_val=2,num_test=2,size=48}"
    recipe = load_recipe("demo/cam", ["stage.epochs=1", "stage.batch_size=8", small, "data.resize=48"])
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / "cam", recipe)
    train(run)
    evaluate(run, recipe)
    return run.path


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_run_or_miss_only_the_data(script, wsolfast, trained, tmp_path):
    if "runs/demo/cam" in script:
        shutil.copytree(trained, tmp_path / "runs" / "demo" / "cam")
    for line in script.splitlines():
        command, *words = shlex.split(line)
        assert command == "wsolfast"
        code, said, complaint = wsolfast(*words)
        assert code == (3 if any(mark in line for mark in NEEDS) else 0), f"{line}\n{said}{complaint}"
