"""What the README tells people to type."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run_recipes import Job, run_recipes
from wsolfast.recipe import list_recipes, load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
# Commands on data sets that a reader brings: understood up to the missing folder.
NEEDS_DATA = ("/data/", "DIR/", "runs/cub50-spa", "photo.jpg")


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory):
    """A folder that looks as the checkout does after `make demo`, from a much shorter training."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "docs").symlink_to(ROOT / "docs")
    short = ["stage.epochs=1", "stage.batch_size=8", "data.options={num_train=16,num_val=8,num_test=8,size=48}"]
    jobs = [Job(folder / "runs" / "demo" / name, load_recipe(f"demo/{name}", short)) for name in ("cam", "spa")]
    assert all(outcome.results for outcome in run_recipes(jobs, Progress(quiet=True)))
    return folder


@pytest.fixture
def type_in(wsolfast, monkeypatch, after_the_demo):
    """Types a wsolfast command after the demo; returns (exit code, what it printed)."""
    monkeypatch.chdir(after_the_demo)

    def run(command):
        code, out, complaint = wsolfast(*shlex.split(command)[1:])
        return code, out + complaint

    return run


def test_the_command_is_installed(after_the_demo):
    command = Path(sys.executable).with_name("wsolfast")
    done = subprocess.run([command, "recipes"], cwd=after_the_demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_two_commands_are_there():
    assert COMMANDS[:2] == ["make demo", "make test"]
    targets = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in targets
    assert "\ntest:" in targets


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith("wsolfast") and not any(mark in c for mark in NEEDS_DATA)]
)
def test_command_runs(command, type_in):
    code, printed = type_in(command)
    assert code == 0, printed


@pytest.mark.parametrize("command", [c for c in COMMANDS if any(mark in c for mark in NEEDS_DATA)])
def test_command_on_data_of_ones_own_misses_only_the_data(command, type_in):
    code, printed = type_in(command)
    assert code == 3, printed


def test_no_other_commands_are_shown():
    assert all(c.startswith(("wsolfast ", "make ", ". .venv/bin/activate")) for c in COMMANDS)


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_snippet_runs(code, after_the_demo):
    done = subprocess.run([sys.executable, "-c", code], cwd=after_the_demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_recipes_named_in_the_table_exist():
    for name in re.findall(r"`((?:cam|spa|cicam|nlccam|csoa)_[a-z0-9_]+)`", README):
        assert name in list_recipes()
    for stem in re.findall(r"`((?:cicam)_[a-z0-9_]+)\*`", README):
        assert any(name.startswith(stem) for name in list_recipes())


def test_files_it_points_to_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
