"""An evaluation is killed, starved and interrupted, and goes on to the same digits without doing anything twice."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from wsolfast import data
from wsolfast.data import atomic
from wsolfast.engine.evaluation import eval_pass
from wsolfast.engine.evaluation.eval_pass import compute_score_maps
from wsolfast.engine.evaluation.eval_split import EvalShard, EvalSplit
from wsolfast.engine.evaluation.evaluate import evaluate, evaluate_shard
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.evaluation.stopwatch import in_words
from wsolfast.engine.run.errors import Interrupted, RunError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder

# How and when, and not what.
TIMES = ("images_per_second", "throughput", "seconds", "seconds_metrics", "evaluated", "environment")

# The process dies while the second batch of the test split is counted: the first one is on disk.
KILLED = """
import os, signal, sys
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.measure import SplitMetrics
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder

update = SplitMetrics.update

def once(self, batch):
    if batch.start:
        os.kill(os.getpid(), signal.SIGKILL)
    update(self, batch)

SplitMetrics.update = once
evaluate(RunFolder(sys.argv[1]))
"""


def found(run):
    """All that an evaluation found, without how and when."""
    folder = run.eval_path("test")
    told = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("results", "curves", "per_image")}
    told["results"] = {key: value for key, value in told["results"].items() if key not in TIMES}
    return told


def heard(run):
    """Evaluates and returns what was said."""
    console = Console(file=StringIO(), width=1000)
    evaluate(run, progress=Progress(console))
    return console.file.getvalue()


@pytest.fixture
def batches_seen(monkeypatch):
    """The images of every batch that a network is shown."""
    seen = []

    def counting(predictor, dataset, indices, batches, **options):
        for batch in compute_score_maps(predictor, dataset, indices, batches, **options):
            seen.append((dataset.split, batch.images))
            yield batch

    monkeypatch.setattr(eval_pass, "compute_score_maps", counting)
    return seen


TEST = [("test", range(0, 4)), ("test", range(4, 8)), ("test", range(8, 10))]
FULLSUP = [("train_fullsup", range(0, 4)), ("train_fullsup", range(4, 6))]


@pytest.fixture
def fresh(tiny, tmp_path, coarse_sweep):
    """A run of an untrained network, not evaluated."""
    return RunFolder.create(tmp_path / "fresh", tiny("stage.epochs=0"))


@pytest.fixture
def whole(fresh, tmp_path):
    """The same run, whose evaluation nothing happened to."""
    run = RunFolder.create(tmp_path / "whole", fresh.recipe)
    evaluate(run)
    return run


def test_a_killed_evaluation_goes_on_after_the_batches_that_were_done(fresh, whole, batches_seen):
    run = fresh
    command = [sys.executable, "-c", KILLED, str(run.path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [file.name for file in (run.eval_path("test") / "maps").iterdir()] == ["000000-000004.safetensors"]
    said = heard(run)
    assert batches_seen == TEST[1:] + FULLSUP
    assert "test: score maps of 4 of 10 images are there" in said
    throughput = EvalResults.read(run.eval_path("test") / "results.json").throughput
    assert set(throughput.images_per_second) >= {"decode", "network", "maps", "boxes", "write"}
    assert in_words(throughput) in said
    assert throughput.slowest in throughput.images_per_second
    assert found(run) == found(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_running_batch(fresh, whole, batches_seen, monkeypatch, number):
    run, save = fresh, ScoreMaps.save

    def signalled(self, batch):
        save(self, batch)
        if batch.start == 4:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreMaps, "save", signalled)
        with pytest.raises(Interrupted, match=r"stopped; the same command goes on with the score maps in .*test/maps"):
            evaluate(run)
    assert batches_seen == TEST[:2]
    evaluate(run)
    assert batches_seen == TEST + FULLSUP
    assert found(run) == found(whole)


@pytest.mark.parametrize("moment", ["score maps", "rows"])
def test_results_never_stand_beside_score_maps_of_others(whole, monkeypatch, moment):
    """A repeated evaluation is interrupted: what it has replaced takes the old results along."""
    results = whole.eval_path("test") / "results.json"
    changed = replace(
        whole.recipe, evaluate=replace(whole.recipe.evaluate, resize=48 if moment == "score maps" else None)
    )
    assert results.is_file()

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "score maps":
            patch.setattr(ScoreMaps, "save", stopped)
        else:
            patch.setattr("wsolfast.engine.evaluation.evaluate.write_table", stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate(whole, changed)
    assert not results.exists()
    assert not (results.parent / "curves.json").exists()
    evaluate(whole, changed)
    assert results.is_file()


def test_a_shard_removes_the_results_of_the_maps_that_it_replaces(whole):
    results = whole.eval_path("test") / "results.json"
    changed = replace(whole.recipe, evaluate=replace(whole.recipe.evaluate, resize=48))
    assert evaluate_shard(whole, changed, EvalShard(1, 2)) is None
    assert not results.exists()


def test_a_full_disk_keeps_what_is_written_and_is_told_in_one_line(fresh, whole, batches_seen, monkeypatch):
    run, write = fresh, atomic.write_bytes

    def full(path, write_content, **options):
        if path.name.startswith("000004"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, write_content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_bytes", full)
        with pytest.raises(RunError, match=r"maps: score maps cannot be written \(No space left on device\)") as told:
            evaluate(run)
    assert told.value.exit_code == 1
    assert "\n" not in str(told.value)
    assert [file.name for file in (run.eval_path("test") / "maps").iterdir()] == ["000000-000004.safetensors"]
    batches_seen.clear()
    evaluate(run)
    assert batches_seen == TEST[1:] + FULLSUP
    assert found(run) == found(whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_ends_it_after_the_batches_before(fresh, whole, monkeypatch, workers):
    run, read = fresh, data.Dataset.__getitem__

    def broken(self, index):
        if self.split == "test" and index == 6:
            raise data.DataError("image 6: cannot be decoded")
        return read(self, index)

    recipe = replace(run.recipe, runtime=replace(run.recipe.runtime, workers=workers))
    with monkeypatch.context() as patch:
        patch.setattr(data.Dataset, "__getitem__", broken)
        with pytest.raises(data.DataError, match=r"^image 6: cannot be decoded$"):
            evaluate(run, recipe)
    assert [file.name for file in (run.eval_path("test") / "maps").iterdir()] == ["000000-000004.safetensors"]
    evaluate(run, recipe)
    assert found(run) == found(whole)


def test_maps_before_an_image_that_is_now_left_out_are_kept(whole, batches_seen, monkeypatch):
    """--skip-bad shortens the list of images: batches before the first gap are still the same."""
    original = EvalSplit.__init__

    def shortened(self, run, recipe, split, limit):
        original(self, run, recipe, split, limit)
        self.indices = [index for index in self.indices if index != 5]
        self.ground_truth.indices = self.indices

    monkeypatch.setattr(EvalSplit, "__init__", shortened)
    evaluate(whole)
    assert batches_seen == [("test", range(4, 8)), ("test", range(8, 9)), ("train_fullsup", range(4, 5))]


def test_another_batch_size_uses_all_maps_or_none(whole, batches_seen):
    recipe = replace(whole.recipe, evaluate=replace(whole.recipe.evaluate, batch_size=5))
    evaluate(whole, recipe)
    assert batches_seen == []
    folder = whole.eval_path("test") / "maps"
    (folder / "000004-000008.safetensors").unlink()
    evaluate(whole, recipe)
    assert batches_seen == [("test", range(0, 5)), ("test", range(5, 10))]
    assert sorted(file.name for file in folder.iterdir()) == ["000000-000005.safetensors", "000005-000010.safetensors"]


def test_every_flipped_byte_of_a_batch_is_noticed(whole):
    folder = whole.eval_path("test") / "maps"
    (file,) = folder.glob("000008*")
    content = file.read_bytes()
    maps = ScoreMaps(folder)
    assert len(maps.rows([8, 9])) == 2
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        batch = maps.load(range(8, 10))
        assert batch is None or torch.equal(batch.maps, maps_of(content)), place


def maps_of(content):
    from safetensors.torch import load

    return load(content)["maps"]
