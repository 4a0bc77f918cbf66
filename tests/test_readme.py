"""What the README tells people to type."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wsolfast.recipe import list_recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
# Commands on data sets that a reader brings: understood up to the missing folder.
NEEDS_DATA = ("/data/", "DIR/", "runs/cub50-spa", "photo.jpg")


def run(command, cwd, timeout=120):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        shlex.split(command), cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory):
    """A folder that looks as the checkout does after `make demo`, from a much shorter training."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "docs").symlink_to(ROOT / "docs")
    for name in ("cam", "spa"):
        short = "stage.epochs=1 stage.batch_size=8 data.options={num_train=16,num_val=8,num_test=8,size=48}"
        for command in (
            f"wsolfast train demo/{name} {short} --runs runs/demo --name {name} --quiet",
            f"wsolfast eval runs/demo/{name} --quiet",
        ):
            done = run(command, folder)
            assert done.returncode == 0, done.stderr
    return folder


def test_the_two_commands_are_there():
    assert COMMANDS[:2] == ["make demo", "make test"]
    targets = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in targets
    assert "\ntest:" in targets


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith("wsolfast") and not any(mark in c for mark in NEEDS_DATA)]
)
def test_command_runs(command, after_the_demo):
    done = run(command, after_the_demo)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if any(mark in c for mark in NEEDS_DATA)])
def test_command_on_data_of_ones_own_misses_only_the_data(command, after_the_demo):
    done = run(command, after_the_demo)
    assert done.returncode == 3, done.stderr + done.stdout


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
