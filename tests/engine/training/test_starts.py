"""Starts that fail: everything of a recipe is looked at before training, and what was there stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wsolfast.engine.assembly.preflight import check_recipe
from wsolfast.engine.run.errors import UsageError
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import StageTraining, train
from wsolfast.recipe import RecipeError, list_recipes, load_recipe

ROOT = Path(__file__).parents[3]
SPOL = ["demo/spol", "data.options={num_train=16, num_val=8, num_test=8, size=48}", "runtime.workers=0"]


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ("evaluate.protocol=spaa", 2, "evaluate.protocol: no protocol 'spaa'; did you mean 'spa'?"),
        ("evaluate.localizer=xx", 2, "evaluate.localizer: no stage 'xx'"),
        ("evaluate.classifier=nope", 3, "evaluate.classifier: neither a stage (localizer) nor a run folder: 'nope'"),
        ("evaluate.scg.delta=0.1", 2, "unknown key 'evaluate.scg.delta'; did you mean 'delta_"),
        ("evaluate.scg.layers=['conv9']", 2, "evaluate.scg: layers: this backbone has the stages"),
        ("evaluate.post=sgc", 2, "evaluate.post: no refinement named 'sgc'; did you mean 'scg'"),
        ("evaluate.semm.seeds=3", 2, "unknown key 'evaluate.semm'; did you mean 'sem'"),
        ("evaluate.resize=[0]", 2, "evaluate.resize"),
        ("stage.uses={pseudo_mas='localizer'}", 2, "stage.localizer.uses.pseudo_mas: no earlier stage"),
        ("stage.backbone.name=smal", 2, "no backbone named 'smal'; did you mean 'small'?"),
        ("stage.backbone.layout=dense", 2, "has no layout 'dense'"),
        ("stage.backbone.freeze=conv9", 2, "conv9"),
        ("stage.model.heed=1", 2, "unknown key 'stage.localizer.model.heed'; did you mean 'head'?"),
        ("stage.optim.lr_factors.hed_weight=2", 2, "did you mean 'head_weight'?"),
        ("stage.method=camm", 2, "no method named 'camm'; did you mean 'cam'?"),
        ("data.options.num_trains=3", 2, "did you mean 'num_train'?"),
        ("data.name=synthetik", 2, "did you mean 'synthetic'?"),
        ("runtime.device=cuda:99", 4, "device 'cuda:99'"),
        ("stage.backbone.weights=absent.pth", 3, "no weights at absent.pth"),
    ],
)
def test_what_cannot_be_meant_is_told_before_a_run_folder_is_made(
    tiny_file, tmp_path, wsolfast, monkeypatch, change, code, told
):
    monkeypatch.setattr(StageTraining, "train", lambda self: pytest.fail("training has begun"))
    found, _, err = wsolfast("train", tiny_file, change)
    assert (found, err.count("\n")) == (code, 1), err
    assert told in err
    assert "scg: scg:" not in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("stage.seg.model.nope=1", "unknown key 'stage.seg.model.nope'"),
        ("stage.seg.backbone.name=resnet51", "did you mean 'resnet50'?"),
        ("stage.seg.backbone.weights=absent.pt", "stage.seg.backbone.weights: no weights at absent.pt"),
        ("stage.seg.optim.lr_factors.hed_weight=2", "hed_weight"),
        ("evaluate.scg.layers=['conv9']", "evaluate.scg: "),
    ],
)
def test_later_stages_are_looked_at_before_the_first_one_is_trained(tmp_path, wsolfast, monkeypatch, change, told):
    monkeypatch.setattr(StageTraining, "train", lambda self: pytest.fail("training has begun"))
    code, _, err = wsolfast("train", *SPOL, change)
    assert code in (2, 3)
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_passes(name):
    check_recipe(load_recipe(name))


def test_a_variant_is_looked_at_too(tiny):
    recipe = tiny('variant=[{name="other", set=["evaluate.protocol=spaa"]}]')
    with pytest.raises(RecipeError, match=r"no protocol 'spaa'; did you mean 'spa'\?"):
        check_recipe(recipe)


@pytest.mark.parametrize(
    "change", ["stage.backbone.weights=absent.pth", "stage.batch_size=0", "runtime.device=cuda:99"]
)
def test_starting_over_removes_nothing_before_it_has_begun(tiny_file, tmp_path, coarse_sweep, wsolfast, change):
    assert wsolfast("train", tiny_file, "--quiet", "--name", "run")[0] == 0
    assert wsolfast("eval", "runs/run", "--quiet")[0] == 0
    before = contents(tmp_path / "runs")
    code, _, err = wsolfast("train", tiny_file, change, "--name", "run", "--exist-ok")
    assert code in (2, 3, 4), err
    assert contents(tmp_path / "runs") == before
    assert wsolfast("train", tiny_file, "--quiet", "--name", "run", "--exist-ok")[0] == 0
    assert not (tmp_path / "runs" / "run" / "eval").exists()
    assert not (tmp_path / "runs" / "run" / ".replaced").exists()


def test_a_first_step_that_fails_leaves_what_was_there(trained, tiny, monkeypatch):
    before = contents(trained.path)

    def fails(self, indices, parts):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(StageTraining, "step", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(RunFolder.create(trained.path, tiny("seed=5"), exist_ok=True))
    assert contents(trained.path) == before


def test_a_start_that_was_killed_is_taken_back_by_the_next(trained, tiny):
    weights = trained.weights_path("localizer").read_bytes()
    RunFolder.create(trained.path, tiny("seed=5"), exist_ok=True)
    assert not trained.weights_path("localizer").exists()
    with pytest.raises(Exception, match="exists; continue it"):
        RunFolder.create(trained.path, tiny())
    assert trained.weights_path("localizer").read_bytes() == weights
    assert "seed = 5" not in (trained.path / "recipe.toml").read_text()


def test_a_killed_start_that_is_resumed_is_no_longer_taken_back(trained, tiny):
    RunFolder.create(trained.path, tiny("seed=5"), exist_ok=True)
    train(RunFolder(trained.path))
    weights = trained.weights_path("localizer").read_bytes()
    with pytest.raises(Exception, match="exists; continue it"):
        RunFolder.create(trained.path, tiny())
    assert trained.weights_path("localizer").read_bytes() == weights


@pytest.mark.parametrize("word", ["--device=cuda:99", "data.root=nowhere"])
def test_a_run_that_cannot_go_on_keeps_its_recipe(tiny, tmp_path, coarse_sweep, wsolfast, word):
    run = RunFolder.create(tmp_path / "run", tiny())
    run.keep()
    before = (run.path / "recipe.toml").read_bytes()
    words = ("data.options={}",) if "root" in word else ()
    code, _, err = wsolfast("train", "--resume", run.path, word, *words)
    assert code in (2, 3, 4), err
    assert (run.path / "recipe.toml").read_bytes() == before


@pytest.mark.parametrize("command", ["eval", "localize"])
def test_a_network_that_cannot_be_measured_leaves_no_folder(tmp_path, wsolfast, command):
    (tmp_path / "net.pt").write_bytes(b"no weights")
    (tmp_path / "photo.png").write_bytes(b"no photo")
    words = {"eval": ("data.root=nowhere",), "localize": ("photo.png",)}[command]
    recipe = {"eval": "ilsvrc400/squeezenet", "localize": "imagenet/squeezenet"}[command]
    code, _, err = wsolfast(command, recipe, "--weights", "net.pt", *words)
    assert (code, err.count("\n")) == (3, 1), err
    assert not (tmp_path / "runs").exists()


# Both ways to the command: as a module, and as the script that pip makes of the entry point.
@pytest.mark.parametrize("start", [("-m", "wsolfast"), ("-c", "from wsolfast.__main__ import main; main()")])
@pytest.mark.parametrize(
    "module", ["wsolfast.cli", "typer", "wsolfast.recipe", "torch", "wsolfast.engine.training.train"]
)
def test_ctrl_c_while_importing_is_silent(tmp_path, tiny_file, module, start):
    """The signal comes in the middle of an import, where an exception would be anything."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Sender:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Sender())\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *start, "train", tiny_file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not (tmp_path / "runs").exists()


def test_nothing_is_imported_before_ctrl_c_is_silent():
    """Without site, which would have imported half of it already."""
    probe = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "before = set(sys.modules)\n"
        "import wsolfast.__main__\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "['wsolfast', 'wsolfast.__main__']\n"


def test_ctrl_c_between_imports_and_training_is_130_too(monkeypatch, wsolfast, tiny_file, tmp_path):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunFolder, "create", interrupted)
    # A job in the background ignores the signal, and so would this process.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, out, err = wsolfast("train", tiny_file)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)
    assert (code, out, err) == (130, "", "")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["eval", "localize"])
def test_a_run_that_is_not_there_is_told_with_the_three_nearest(tmp_path, wsolfast, command):
    for name in ("nop", "hope", "nape", "another-one"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.toml").write_text("")
    words = ("x.png",) if command == "localize" else ()
    (tmp_path / "x.png").write_bytes(b"")
    code, _, err = wsolfast(command, "runs/nope", *words)
    assert (code, err.count("\n")) == (3, 1)
    assert err == "error: there is no run at runs/nope; the nearest are runs/nop, runs/nape, runs/hope\n"
    code, _, err = wsolfast(command, "elsewhere/nope", *words)
    assert (code, err) == (3, "error: there is no run at elsewhere/nope, and no folder elsewhere\n")


@pytest.mark.parametrize("words", [("recipes", "qqqq"), ("train", "qqqq"), ("eval", "qqqq"), ("recipes", "xyz/qqqq")])
def test_no_command_lists_all_recipes_for_an_unknown_one(tmp_path, wsolfast, words):
    code, _, err = wsolfast(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert sum(name in err.replace(",", "").split() for name in list_recipes()) == 3
    assert len(err) < 250


def test_a_name_that_is_neither_recipe_nor_run_is_told_so(wsolfast):
    code, _, err = wsolfast("eval", "demo-cam")
    assert code == 2
    assert err == "error: no recipe named 'demo-cam', and no run folder either; did you mean 'demo/cam'?\n"


def test_every_row_of_reproduce_is_looked_at_before_the_first_one_runs(tmp_path, wsolfast):
    code, _, err = wsolfast("reproduce", "--recipes", "demo/cam", "--recipes", "demo/spa", "evaluate.protocol=spaa")
    assert (code, err) == (2, "error: evaluate.protocol: no protocol 'spaa'; did you mean 'spa'?\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["report", "localized", "report/sheets"])
def test_starting_over_keeps_what_someone_else_put_into_the_run(trained, tiny, place):
    folder = trained.path / place
    Outputs(folder).write_text(folder / "index.html", "a page of ours")
    note = folder / "note.txt"
    note.write_text("of mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"note\.txt is not of this run, which would be replaced; move it away"):
        RunFolder.create(trained.path, tiny("seed=5"), exist_ok=True)
    assert note.read_text(encoding="utf-8") == "of mine"
    note.unlink()
    RunFolder.create(trained.path, tiny("seed=5"), exist_ok=True)
    assert not folder.exists()
