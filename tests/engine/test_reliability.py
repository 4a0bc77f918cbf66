"""Runs are killed, starved and lied to; docs/reliability.md lists what then happens."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wsolfast.data import DataError
from wsolfast.data.sources import synthetic
from wsolfast.engine.assembly import checkpoint as checkpoint_module
from wsolfast.engine.run import distributed
from wsolfast.engine.run.errors import Interrupted, RunError, UsageError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.gradients import StepResult
from wsolfast.engine.training.logs import NonFiniteSteps
from wsolfast.engine.training.order import DataOrder, TrainPosition
from wsolfast.engine.training.train import StageTraining, change_runtime, train
from wsolfast.methods.cam import CAM
from wsolfast.recipe import RecipeError

ROOT = Path(__file__).parents[2]

# The process dies when half of its third checkpoint is written.
KILLED_WHILE_WRITING = """
import os, signal, sys, torch
from wsolfast.engine.assembly import checkpoint
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train

save, count = torch.save, 0

def half(state, stream):
    global count
    count += 1
    if count < 3:
        return save(state, stream)
    stream.write(b"x" * 4096)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

checkpoint.torch.save = half
train(RunFolder(sys.argv[1]))
"""

# The second of two processes gets a signal in the fourth step.
SIGNAL_TO_ONE = """
import os, sys
from wsolfast.engine.run import distributed
from wsolfast.engine.run.errors import RunError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods.cam import CAM

step = CAM.training_step

def signalled(self, batch, state):
    if state.step == 3 and distributed.rank() == 1:
        os.kill(os.getpid(), int(sys.argv[2]))
    return step(self, batch, state)

CAM.training_step = signalled
try:
    with distributed.processes("cpu", timeout_minutes=float(sys.argv[3])):
        train(RunFolder(sys.argv[1]))
except RunError as error:
    sys.exit(f"error: {error}")
"""


def weights(run):
    return load_file(run.weights_path("localizer"))


def assert_same_weights(one, other):
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture
def whole(tiny, tmp_path):
    """A run that nothing happened to, with a checkpoint at every step."""
    run = RunFolder.create(tmp_path / "whole", tiny("runtime.save_every_steps=1"))
    train(run)
    return run


def test_killed_while_a_checkpoint_is_written(whole, tmp_path):
    run = RunFolder.create(tmp_path / "killed", whole.recipe)
    ended = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, run.path], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["position"] == [0, 2, 2]
    assert torch.load(run.path / "checkpoints" / "previous.ckpt", weights_only=True)["position"] == [0, 1, 1]
    train(run)
    assert_same_weights(weights(whole), weights(run))


def test_a_full_disk_leaves_both_checkpoints_whole(whole, tmp_path, monkeypatch):
    run, save, count = RunFolder.create(tmp_path / "full", whole.recipe), torch.save, 0

    def full(state, stream):
        nonlocal count
        count += 1
        if count == 4:
            stream.write(b"x" * 100)
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, stream)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            train(run)
    folder = run.path / "checkpoints"
    assert sorted(file.name for file in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    steps = [torch.load(folder / name, weights_only=True)["position"][2] for name in ("previous.ckpt", "last.ckpt")]
    assert steps == [2, 3]
    train(run)
    assert_same_weights(weights(whole), weights(run))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pickled-code-was-run",)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "last.ckpt: cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:4096]), "last.ckpt: cannot be read"),
        (
            lambda file: torch.save({"method": Evil()}, file),
            "last.ckpt: refused, it holds something other than tensors",
        ),
    ],
    ids=["flipped bit", "torn", "pickled code"],
)
def test_a_bad_checkpoint_falls_back_to_the_one_before_and_says_so(whole, damage, message, monkeypatch):
    monkeypatch.chdir(whole.path)
    before = weights(whole)
    whole.weights_path("localizer").unlink()
    damage(whole.path / "checkpoints" / "last.ckpt")
    train(whole)
    assert_same_weights(before, weights(whole))
    log = (whole.path / "train.log").read_text()
    assert re.search(f"{re.escape(message)}.*; continuing from previous.ckpt", log)
    assert "resumed at step 5" in log
    assert not Path("pickled-code-was-run").exists()


def test_two_bad_checkpoints_end_the_run(whole):
    whole.weights_path("localizer").unlink()
    for name in ("last.ckpt", "previous.ckpt"):
        flip_a_bit(whole.path / "checkpoints" / name)
    with pytest.raises(RunError, match=r"last.ckpt: cannot be read.*start the run over with --exist-ok") as caught:
        train(whole)
    assert caught.value.exit_code == 3


def train_on_two(run, number):
    """The two processes, ended, and what they said."""
    return [(process.communicate(timeout=60)[1], process.returncode) for process in start_two(run, number)]


def start_two(run, number, timeout_minutes=0.5):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_start_rank(rank, port, run, number, timeout_minutes) for rank in (0, 1)]


def _start_rank(rank, port, run, number, timeout_minutes):
    variables = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, "-c", SIGNAL_TO_ONE, run.path, str(int(number)), str(timeout_minutes)],
        env=os.environ | {name: str(value) for name, value in variables.items()} | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_when_one_of_two_processes_is_killed_the_other_says_so_and_the_run_resumes(whole, tmp_path):
    run = RunFolder.create(tmp_path / "half", whole.recipe)
    (err, code), (_, code_of_second) = train_on_two(run, signal.SIGKILL)
    assert code_of_second == -signal.SIGKILL
    assert code == 1
    assert re.search(r"error: process 0 of 2 lost another one, .*; look for its message", err), err
    assert torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["position"] == [1, 0, 3]
    train(run)  # alone: checkpoints know no number of processes
    assert run.weights_path("localizer").exists()


@pytest.mark.slow
def test_when_one_of_two_processes_stands_still_the_other_waits_no_longer_than_told(whole, tmp_path):
    run = RunFolder.create(tmp_path / "still", whole.recipe)
    waiting, still = start_two(run, signal.SIGSTOP, timeout_minutes=0.25)
    try:
        _, err = waiting.communicate(timeout=300)
    finally:
        still.kill()
        still.communicate()
    assert waiting.returncode == 1
    assert re.search(
        r"error: process 0 of 2 lost another one, which ended or stands still \(.*(imed out|timeout)", err
    ), err
    train(run)
    assert run.weights_path("localizer").exists()


def test_a_signal_to_one_process_stops_all_after_the_same_step(whole, tmp_path):
    run = RunFolder.create(tmp_path / "asked", whole.recipe)
    for err, code in train_on_two(run, signal.SIGTERM):
        assert code == 1
        assert "error: stopped at step 4; continue with: wsolfast train --resume" in err
    assert torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["position"] == [1, 1, 4]


def not_a_number(monkeypatch, *steps):
    """A loss that is not finite at some steps, and leaves traces in the batch norms."""
    step = CAM.training_step

    def broken(self, batch, state):
        if state.step not in steps:
            return step(self, batch, state)
        for buffer in self.buffers():
            if buffer.is_floating_point():
                buffer.fill_(float("nan"))
        return {"loss": step(self, batch, state)["loss"] * float("nan")}

    monkeypatch.setattr(CAM, "training_step", broken)


def test_a_loss_that_is_not_a_number_stops_the_run_and_lists_its_images(tiny, tmp_path, monkeypatch):
    not_a_number(monkeypatch, 2)
    run = RunFolder.create(tmp_path / "run", tiny())
    with pytest.raises(RunError, match="step 2: loss = nan, gradient norm = nan; images ") as caught:
        train(run)
    (row,) = json.loads((run.path / "nonfinite.json").read_text())
    assert (row["stage"], row["epoch"], row["step"]) == ("localizer", 0, 2)
    assert len(row["images"]) == 4  # the rest of 20 images in batches of 8
    assert all(image in str(caught.value) for image in row["images"])


def test_as_many_such_steps_as_allowed_are_left_out_without_a_trace(tiny, tmp_path, monkeypatch):
    not_a_number(monkeypatch, 1, 4)
    run = RunFolder.create(tmp_path / "run", tiny("runtime.skip_nonfinite=2"))
    train(run)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    steps = [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 3, 4, 6]
    assert [row["step"] for row in json.loads((run.path / "nonfinite.json").read_text())] == [1, 4]
    assert "left out, 2 of at most 2" in (run.path / "train.log").read_text()
    other = RunFolder.create(tmp_path / "other", tiny("runtime.skip_nonfinite=1"))
    with pytest.raises(RunError, match="step 4"):
        train(other)


def test_a_resumed_stage_goes_on_with_the_steps_that_it_left_out(tiny, tmp_path, monkeypatch, interrupt):
    not_a_number(monkeypatch, 1, 4)
    run = RunFolder.create(tmp_path / "run", tiny("runtime.skip_nonfinite=1"))
    # The first epoch has three steps; the second one is left out, and a checkpoint is written at the end.
    interrupt(StageTraining, "step", 3)
    with pytest.raises(Interrupted):
        train(run)
    with pytest.raises(RunError, match="step 4"):
        train(RunFolder(run.path))
    listed = json.loads((run.path / "nonfinite.json").read_text())
    assert [row["step"] for row in listed] == [1, 4]
    # Step 4 is taken again, so it counts once.
    change_runtime(run, replace(run.recipe, runtime=replace(run.recipe.runtime, skip_nonfinite=2)))
    train(RunFolder(run.path))
    assert json.loads((run.path / "nonfinite.json").read_text()) == listed


def test_every_stage_may_leave_out_as_many_steps(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny("runtime.skip_nonfinite=1"))
    result = StepResult({"loss": float("nan")}, float("nan"), False, False)
    for stage in ("cam", "seg"):
        NonFiniteSteps(run, stage, lambda text: None, 0).add(result, TrainPosition(), ["a.png"])
    listed = json.loads((run.path / "nonfinite.json").read_text())
    assert [row["stage"] for row in listed] == ["cam", "seg"]
    with pytest.raises(RunError):
        NonFiniteSteps(run, "cam", lambda text: None, 1).add(result, TrainPosition(step=1), ["a.png"])


def test_a_gradient_that_is_not_finite_counts_too(tiny, tmp_path, monkeypatch):
    step = CAM.training_step

    def steep(self, batch, state):
        loss = step(self, batch, state)["loss"]
        return {"loss": loss + (loss - loss.detach()).abs().sqrt()}  # infinitely steep at zero

    monkeypatch.setattr(CAM, "training_step", steep)
    with pytest.raises(RunError, match=r"loss = \d.*, gradient norm = nan"):
        train(RunFolder.create(tmp_path / "run", tiny()))


def test_the_death_of_a_loading_process_is_told_in_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic.SyntheticSource, "read", lambda self, index: os.kill(os.getpid(), signal.SIGKILL))
    run = RunFolder.create(tmp_path / "run", tiny("runtime.workers=1"))
    with pytest.raises(RunError, match=r"an image loading process died \(.*\); .* use fewer with --workers") as caught:
        train(run)
    assert "\n" not in str(caught.value)


def test_a_bad_image_met_by_a_loading_process_is_told_in_one_line(tiny, tmp_path, monkeypatch):
    def bad(self, index):
        raise DataError("bird.jpg: cannot be decoded (truncated)")

    monkeypatch.setattr(synthetic.SyntheticSource, "read", bad)
    with pytest.raises(DataError) as caught:
        train(RunFolder.create(tmp_path / "run", tiny("runtime.workers=1")))
    assert str(caught.value) == "bird.jpg: cannot be decoded (truncated)"


def test_a_lock_names_its_holder_and_dies_with_it(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny("stage.epochs=1"))
    with run.lock(), pytest.raises(UsageError, match=rf"in use by another wsolfast process \({os.getpid()} on "):
        train(run)
    (run.path / ".lock").write_text("4194304 on a machine that is gone\n")
    train(run)


def test_accumulated_parts_are_the_whole_batch_where_statistics_are_frozen(tiny, tmp_path):
    overrides = ("stage.backbone.freeze_bn=true", "stage.epochs=1", "stage.optim.lr=0.001")
    one, three = (RunFolder.create(tmp_path / str(n), tiny(*overrides, f"stage.accumulate={n}")) for n in (1, 3))
    for run in (one, three):
        train(run)
    for name, tensor in weights(one).items():
        # Single precision, sums in another order.
        torch.testing.assert_close(weights(three)[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("option", ["fused_optimizer", "deterministic", "compile"])
def test_ways_of_running_change_no_more_than_rounding(tiny, tmp_path, monkeypatch, option):
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compiled(*args, backend="eager", **kwargs))
    one, two = (
        RunFolder.create(tmp_path / value, tiny("stage.epochs=1", f"runtime.{option}={value}"))
        for value in ("false", "true")
    )
    for run in (one, two):
        train(run)
    assert not torch.are_deterministic_algorithms_enabled()
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-4)  # single precision, three steps


def test_more_processes_than_images_in_a_batch_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 5)
    order = DataOrder(torch.zeros(20), tiny().stage[0], 0, lambda labels, batch_size, seed: None)
    with pytest.raises(RecipeError, match="an epoch of 20 images has a batch of 4, too few for 5 processes"):
        order.remaining(TrainPosition())


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, distributed.Rank()),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, distributed.Rank()),  # a batch script, not a step of srun
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
            distributed.Rank(5, 8, 1, 4),
        ),
        (
            {
                "SLURM_STEP_NUM_TASKS": "16",
                "SLURM_PROCID": "9",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
                "SLURM_STEP_NODELIST": "gpu[007-008]",
                "SLURM_JOB_ID": "12",
                "SLURM_STEP_ID": "3",
            },
            distributed.Rank(9, 16, 1, 8, "gpu007", 20375),
        ),
    ],
    ids=["alone", "sbatch", "torchrun", "srun"],
)
def test_launchers_are_recognised(environment, rank):
    assert distributed.find_rank(environment) == rank


@pytest.mark.parametrize(
    ("nodes", "first"), [("a1", "a1"), ("a1,b2", "a1"), ("n[3,5-7]", "n3"), ("x1,n[3,5]", "x1"), ("n-2-[08]", "n-2-08")]
)
def test_the_first_process_runs_on_the_first_host_of_a_list(nodes, first):
    environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1"}
    assert distributed.find_rank(environment | {"SLURM_STEP_NODELIST": nodes}).address == first


def test_every_test_that_the_table_of_faults_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 15
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"
