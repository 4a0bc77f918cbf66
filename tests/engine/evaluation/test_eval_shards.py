"""An evaluation in parts that know nothing of each other against one in a piece: the same digits."""

import json
import shutil

import pytest

from wsolfast.engine.evaluation.eval_split import EvalShard
from wsolfast.engine.evaluation.evaluate import evaluate, evaluate_shard
from wsolfast.engine.run.errors import InUseError, MissingError, UsageError
from wsolfast.engine.run.run_folder import RunFolder

# How and when, and not what.
TIMES = ("images_per_second", "throughput", "seconds", "seconds_metrics", "evaluated", "environment")


def found(run, name="test"):
    """All that an evaluation found, without how and when."""
    folder = run.eval_path(name)
    told = {file: json.loads((folder / f"{file}.json").read_text()) for file in ("results", "curves", "per_image")}
    told["results"] = {key: value for key, value in told["results"].items() if key not in TIMES}
    return told


@pytest.fixture
def copies(tiny, tmp_path, coarse_sweep):
    """Makes runs of one untrained network."""
    return lambda name: RunFolder.create(tmp_path / name, tiny("stage.epochs=0"))


@pytest.mark.parametrize(("shards", "limit", "crops"), [(2, None, "one"), (3, None, "ten"), (3, 7, "one")])
def test_the_last_of_several_shards_finds_what_one_evaluation_finds(copies, tiny, shards, limit, crops):
    recipe = tiny("stage.epochs=0", "evaluate.batch_size=2", f"evaluate.ten_crop={str(crops == 'ten').lower()}")
    whole, parted = copies("whole"), copies("parted")
    evaluate(whole, recipe, limit=limit)
    for number in range(1, shards):
        assert evaluate_shard(parted, recipe, EvalShard(number, shards), limit=limit) is None
    assert evaluate_shard(parted, recipe, EvalShard(shards, shards), limit=limit) is not None
    name = "test" if limit is None else f"test-limit-{limit}"
    assert found(parted, name) == found(whole, name)
    assert json.loads((parted.eval_path(name) / "results.json").read_text())["throughput"]["slowest"]


def test_shards_of_two_machines_are_brought_together_by_copying_files(copies):
    whole, first, second = copies("whole"), copies("first"), copies("second")
    evaluate(whole)
    assert evaluate_shard(first, None, EvalShard(1, 2)) is None
    assert evaluate_shard(second, None, EvalShard(2, 2)) is None
    with pytest.raises(MissingError, match=r"of shard 2/2 are not all there; finish with: .*first --shard 2/2"):
        evaluate(first, merge_shards=2)
    shutil.copytree(second.path / "eval", first.path / "eval", dirs_exist_ok=True)
    evaluate(first, merge_shards=2)
    assert found(first) == found(whole)


def test_a_shard_that_was_done_is_not_done_again(copies, monkeypatch):
    run = copies("run")
    evaluate_shard(run, None, EvalShard(1, 2))
    monkeypatch.setattr("wsolfast.engine.evaluation.eval_pass.compute_score_maps", None)
    assert evaluate_shard(run, None, EvalShard(1, 2)) is None


def test_shards_work_side_by_side_and_nobody_else(copies):
    run = copies("run")
    with run.lock("shard-1-of-2"):
        with run.lock("shard-2-of-2"), pytest.raises(InUseError, match="in use by another wsolfast process"):
            evaluate(run)
        with pytest.raises(InUseError):
            evaluate_shard(run, None, EvalShard(1, 2))
        # The other one finishes all that is missing but its own share: it has not the last word.
        assert evaluate_shard(run, None, EvalShard(2, 2)) is None
    with run.lock(), pytest.raises(InUseError):
        evaluate_shard(run, None, EvalShard(1, 2))


def test_a_shard_leaves_measuring_to_another_process_that_has_begun(copies):
    run = copies("run")
    evaluate_shard(run, None, EvalShard(1, 2))
    with run.lock("anything"):
        assert evaluate_shard(run, None, EvalShard(2, 2)) is None
    assert not (run.eval_path("test") / "results.json").exists()
    evaluate(run, merge_shards=2)
    assert (run.eval_path("test") / "results.json").exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="--shard: expected I/N with 1 <= I <= N"):
        EvalShard.parse(text)


def test_the_command_does_shards(copies, wsolfast):
    run = copies("run")
    code, out, err = wsolfast("eval", run.path, "--shard", "1/2")
    assert (code, out) == (0, "")
    assert "shard 1/2 is done" in err
    code, _, err = wsolfast("eval", run.path, "--merge-shards", "2")
    assert code == 3
    assert "score maps of shard 2/2 are not all there" in err
    code, out, _ = wsolfast("eval", run.path, "--shard", "2/2", "--json")
    assert code == 0
    assert json.loads(out)["num_images"] == 10
    assert wsolfast("eval", run.path, "--merge-shards", "2", "-q")[0] == 0
    code, _, err = wsolfast("eval", run.path, "--merge-shards", "2", "--shard", "1/2")
    assert code == 2
    assert "give one of them" in err
