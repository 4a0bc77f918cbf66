"""Commands replace what they wrote themselves and nothing else: pages, graphs, masks, runs, weights."""

import json
import shutil

import pytest

from wsolfast.engine import demo
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run.errors import UsageError
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.run_folder import RunFolder


def contents(folder):
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {file.relative_to(folder): file.read_bytes() for file in files}


@pytest.fixture
def evaluated(trained):
    evaluate(trained)
    return trained


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("report", "RUN", "--out", "OUT/page.html"), ("page.html", "report.png")),
        (("export", "RUN", "--to", "coco", "--out", "OUT/found.json"), ("found.json",)),
        (("export", "RUN", "--to", "torch", "--out", "OUT/net.pt2"), ("net.pt2",)),
        (("export", "RUN", "--to", "masks", "--out", "OUT"), ("masks/test/000000.png", "scores/test/000000.png")),
    ],
)
def test_a_file_of_someone_else_is_refused_before_the_work_and_ones_own_is_replaced(
    evaluated, tmp_path, wsolfast, words, names
):
    out = tmp_path / "out"
    words = [word.replace("OUT", str(out)).replace("RUN", str(evaluated.path)) for word in words]
    if "masks" in words:
        first = json.loads((evaluated.eval_path("test") / "per_image.json").read_text())["images"][0]["image_id"]
        names = [f"{kind}/{first.rpartition('.')[0] or first}.png" for kind in ("masks", "scores")]
    for name in names:
        shutil.rmtree(out, ignore_errors=True)
        (out / name).parent.mkdir(parents=True)
        (out / name).write_bytes(b"mine")
        code, _, err = wsolfast(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert f"{name} exists and is not of this command" in err
        assert list(contents(out).values()) == [b"mine"]
    shutil.rmtree(out)
    for _ in range(2):
        code, _, err = wsolfast(*words)
        assert code == 0, err
    assert (out / names[0]).stat().st_size > 0


def test_a_run_s_own_files_are_no_place_for_outputs(evaluated, wsolfast, tmp_path):
    before = contents(evaluated.path)
    for name in ("recipe.toml", "eval/test/results.json", "checkpoints/model.safetensors"):
        code, _, err = wsolfast("export", evaluated.path, "--to", "coco", "--out", evaluated.path / name)
        assert (code, err.count("\n")) == (2, 1)
    assert contents(evaluated.path) == before


def test_two_runs_of_one_folder_s_name_have_a_sheet_each(evaluated, tmp_path, wsolfast):
    (tmp_path / "b").mkdir()
    shutil.copytree(evaluated.path, tmp_path / "b" / "run")
    code, _, err = wsolfast("report", "run", "b/run", "--out", "r/page.html", "--sheets")
    assert code == 0, err
    written = sorted(file.name for file in (tmp_path / "r" / "sheets").glob("*.png"))
    assert written == ["run-test-2.png", "run-test.png", "run-training-2.png", "run-training.png"]


def test_the_results_that_thresholds_are_taken_from_are_not_replaced(tmp_path):

    outputs = Outputs(tmp_path)
    outputs.write_text(tmp_path / "results.json", "{}")
    with pytest.raises(UsageError, match="is read by this command"):
        Outputs(tmp_path, reads=[tmp_path / "results.json"]).check(tmp_path / "results.json")


def test_a_bench_replaces_no_other_files(tmp_path, wsolfast):
    rows = {"bench": "ops", "environment": {}, "rows": []}
    (tmp_path / "old.json").write_text(json.dumps(rows))
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "mine.json").write_text('{"a": 1}')
    (tmp_path / "eval.json").write_text(json.dumps(rows | {"bench": "eval"}))
    for words, told in (
        (("compare", "old.json", "old.json", "--md", "old.json"), "is read by this command"),
        (("compare", "old.json", "old.json", "--md", "notes.md"), "not of this command"),
        (("ops", "--cases", "tiny", "--md", "notes.md"), "not of this command"),
        (("ops", "--cases", "tiny", "--json", "mine.json"), "not a results file"),
        (("ops", "--cases", "tiny", "--json", "eval.json"), "results of another bench"),
    ):
        before = contents(tmp_path)
        code, _, err = wsolfast("bench", *words)
        assert (code, err.count("\n")) == (2, 1), err
        assert told in err
        assert contents(tmp_path) == before


def test_weights_from_elsewhere_do_not_replace_those_of_a_run(tiny_file, tmp_path, coarse_sweep, wsolfast):
    assert wsolfast("train", tiny_file, "--quiet", "--name", "one")[0] == 0
    assert wsolfast("train", tiny_file, "--quiet", "--name", "two", "--seed", 1)[0] == 0
    assert wsolfast("train", tiny_file, "--quiet", "--name", "other", "--seed", 0, "stage.optim.lr=0.02")[0] == 0
    before = contents(tmp_path / "runs")
    weights = "runs/other/checkpoints/model.safetensors"
    code, _, err = wsolfast("eval", tiny_file, "--weights", weights, "--name", "one")
    assert (code, err.count("\n")) == (2, 1)
    assert "runs/one holds other weights; choose another --name" in err
    assert contents(tmp_path / "runs") == before
    # Weights that lie in the run that they would replace.
    for words in (
        ("eval", tiny_file, "--weights", "runs/one/checkpoints/model.safetensors"),
        ("train", tiny_file, "stage.backbone.weights=runs/one/checkpoints/model.safetensors"),
    ):
        code, _, err = wsolfast(*words, "--name", "one", "--exist-ok")
        assert (code, err.count("\n")) == (2, 1), err
        assert "is needed, and lies in the run that would be replaced: runs/one" in err
        assert contents(tmp_path / "runs") == before
    own = "runs/one/checkpoints/model.safetensors"
    assert wsolfast("eval", tiny_file, "--weights", own, "--name", "one", "--quiet")[0] == 0


def test_a_folder_with_a_user_s_own_recipe_is_no_run(tiny_file, tmp_path, wsolfast):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    own = tmp_path / "runs" / "mine" / "recipe.toml"
    own.write_text("# my notes\n" + tiny_file.read_text())
    before = own.read_bytes()
    for words in ((), ("--exist-ok",)):
        code, _, err = wsolfast("train", own, "--name", "mine", *words)
        assert code == 2
        assert "runs/mine exists and is no run folder" in err
        assert own.read_bytes() == before


def test_the_demo_replaces_its_own_runs_alone(tiny, tmp_path, monkeypatch, coarse_sweep):
    monkeypatch.setattr(demo, "demo_recipes", lambda *, baselines: ["demo/cam"])
    monkeypatch.setattr(demo, "load_recipe", lambda name, overrides: tiny(*overrides))
    monkeypatch.setattr(demo, "write_report", lambda runs, page: page)
    RunFolder.create(tmp_path / "runs" / "cam", tiny())
    before = contents(tmp_path / "runs")
    with pytest.raises(UsageError, match="cam was made by another command and is not replaced"):
        demo.demo(tmp_path / "runs")
    assert contents(tmp_path / "runs") == before
    for _ in range(2):
        demo.demo(tmp_path / "other", minutes=0.1)
