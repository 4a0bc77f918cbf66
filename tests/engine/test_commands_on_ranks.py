"""The command under torchrun: what shares work does, what does not says so."""

import contextlib
import json
import os
import sys

import pytest
from ranks import on_launched

from wsolfast.engine import demo as demo_module

REFUSED = [
    ("localize", "run", "photo.jpg"),
    ("report", "run"),
    ("report", "run", "--table", "md"),
    ("ls", "runs"),
    ("convert", "file.pth"),
    ("eval-maps", "maps", "--metadata", "metadata", "--dataset", "CUB"),
]


def command(folder, words):
    """Run one process of torchrun; what the command said and its exit code go to a file of its rank."""
    from wsolfast import cli

    os.chdir(folder)
    sys.argv, code = ["wsolfast", *words], 0
    with open(f"said.rank{os.environ['RANK']}", "w") as said:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                cli.main()
            except SystemExit as exit_:
                code = exit_.code or 0
        said.write(f"exit {code}\n")


def said(folder):
    """Return what the first and the second process said."""
    return [(folder / f"said.rank{rank}").read_text() for rank in (0, 1)]


def small_demo(folder):
    load = demo_module.load_recipe

    def small(name, overrides):
        return load(
            name, [*overrides, "stage.batch_size=8", "data.options={num_train=16, num_val=4, num_test=6, size=48}"]
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "demo_recipes", lambda **_: ["demo/cam"])
        patch.setattr(demo_module, "load_recipe", small)
        command(folder, ("demo", "--out", "shown", "--minutes", "0.01"))


@pytest.fixture
def recipe(tmp_path, tiny_file):
    """The tiny recipe, of one epoch."""
    tiny_file.write_text(tiny_file.read_text().replace("epochs = 2", "epochs = 1"))
    return tiny_file


def test_two_processes_reproduce_as_one_run_and_not_again(tmp_path, recipe):
    words = ("reproduce", "--recipes", recipe.name, "--output", "out")
    on_launched(2, command, tmp_path, words)
    first, second = said(tmp_path)
    assert first.endswith("exit 0\n")
    assert "| tiny | measured, seed 0 |" in first
    assert "epoch 1/1" in first
    assert second == "exit 0\n"
    summary = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    (run,) = summary["recipes"]["tiny"]["runs"]
    assert run["numbers"]["eval_images_per_second"] > 0
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert json.loads((folder / "env.json").read_text())["processes"] == 2
    losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses if "loss" in line] == [1, 2, 3]

    on_launched(2, command, tmp_path, words)
    first, second = said(tmp_path)
    assert "epoch 1/1" not in first
    assert "| tiny | measured, seed 0 |" in first
    assert second == "exit 0\n"


def test_a_run_that_fails_ends_the_list_of_all_processes(tmp_path, recipe):
    bad = tmp_path / "bad.toml"
    bad.write_text(recipe.read_text().replace('name = "small"', 'name = "small"\nweights = "absent.pth"'))
    words = ("reproduce", "--recipes", bad.name, "--recipes", recipe.name, "--output", "failed")
    on_launched(2, command, tmp_path, words)
    for text in said(tmp_path):
        assert "no weights at absent.pth" in text
        assert text.endswith("exit 3\n")
    assert not (tmp_path / "failed" / "reproduce.json").exists()


def test_only_one_process_lists_what_would_run(wsolfast, monkeypatch, recipe):
    words = ("reproduce", "--recipes", recipe, "--list", "--quiet")
    for rank, lines in ((0, 1), (1, 0)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        code, out, _ = wsolfast(*words)
        assert (code, out.count("to do")) == (0, lines)


def test_two_processes_show_one_demo(tmp_path):
    on_launched(2, small_demo, tmp_path)
    first, second = said(tmp_path)
    assert first.endswith("report: shown/report/index.html\nexit 0\n")
    assert "Top-1 Cls" in first
    assert second == "exit 0\n"
    assert (tmp_path / "shown" / "report" / "index.html").is_file()
    assert json.loads((tmp_path / "shown" / "cam" / "env.json").read_text())["processes"] == 2


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_work_for_one_process_is_refused_by_several(wsolfast, monkeypatch, words):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    code, out, err = wsolfast(*words)
    assert (code, out) == (2, "")
    assert err.endswith("work for one process, 2 were started; give it without torchrun or srun\n")
