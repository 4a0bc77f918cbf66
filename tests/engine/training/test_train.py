import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from wsolfast import methods
from wsolfast.backbones import class_names_of
from wsolfast.engine.assembly.build import build_method
from wsolfast.engine.assembly.checkpoint import seed_everything
from wsolfast.engine.assembly.optimizer import build_optimizer, rate_at
from wsolfast.engine.assembly.weights import PUBLIC, find_weights, settle_weights
from wsolfast.engine.run.errors import Interrupted, RunError, UsageError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods.cam import CAM
from wsolfast.methods.csoa import CSoA
from wsolfast.recipe import OptimSpec, RecipeError, ScheduleSpec, list_recipes, load_recipe

# A training process that is told to be slow, so that it can be killed between two steps that the test chooses.
SLOW_TRAINING = """
import sys, time
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods.cam import CAM

step = CAM.training_step

def slow_step(self, batch, state):
    time.sleep(float(sys.argv[2]))
    return step(self, batch, state)

CAM.training_step = slow_step
train(RunFolder(sys.argv[1]))
"""


def events(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def weights(run):
    return load_file(run.weights_path(run.recipe.stage[-1].name))


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


class Dropped(CAM):
    """Draws from torch's generator at every step, so that a resumed run must bring it back."""

    def training_step(self, batch, state):
        losses = super().training_step(batch, state)
        return {"loss": losses["loss"] * (0.5 + torch.rand(()))}


@pytest.fixture
def random_method(monkeypatch):
    monkeypatch.setattr(methods, "get_stage", lambda name: Dropped)


def test_a_run_leaves_weights_events_and_its_recipe(tiny, tmp_path):
    recipe = tiny()
    run = RunFolder.create(tmp_path / "run", recipe)
    train(run)
    assert RunFolder(run.path).recipe == recipe
    found = events(run)
    assert [event["step"] for event in found] == [1, 2, 3, 4, 5, 6]
    assert [event["epoch"] for event in found] == [0, 0, 0, 1, 1, 1]
    assert [round(event["lr"], 6) for event in found] == [0.01] * 3 + [0.001] * 3
    assert all(event["loss"] > 0 and event["images_per_second"] > 0 for event in found)
    assert json.loads((run.path / "env.json").read_text())["device"] == "cpu"
    assert "epoch 2/2" in (run.path / "train.log").read_text()
    before = run.weights_path("localizer").stat().st_mtime_ns
    train(run)  # nothing is left to do
    assert run.weights_path("localizer").stat().st_mtime_ns == before


def test_training_is_a_function_of_the_seed(tiny, tmp_path, random_method):
    runs = [RunFolder.create(tmp_path / name, tiny(f"seed={seed}")) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    for run in runs:
        torch.rand(5)
        train(run)
    assert_same_weights(weights(runs[0]), weights(runs[1]))
    assert any(not torch.equal(weights(runs[0])[name], tensor) for name, tensor in weights(runs[2]).items())


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_an_interrupted_run_continues_bit_for_bit(tiny, tmp_path, random_method, interrupt, stop_at):
    whole = RunFolder.create(tmp_path / "whole", tiny())
    train(whole)

    run = RunFolder.create(tmp_path / "stopped", tiny())
    steps = interrupt(Dropped, "training_step", stop_at)
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at}; continue with: .*--resume"):
        train(run)
    assert not run.weights_path("localizer").exists()
    torch.rand(7)
    train(RunFolder(run.path))
    assert [state.step for _, state in steps] == [0, 1, 2, 3, 4, 5]
    assert_same_weights(weights(whole), weights(run))
    assert [event["step"] for event in events(run)] == [1, 2, 3, 4, 5, 6]


def test_dropout_continues_bit_for_bit(tiny, tmp_path, interrupt):
    recipe = tiny("stage.model={head = 'conv2', hidden_channels = 8, dropout = 0.5}")
    whole = RunFolder.create(tmp_path / "whole", recipe)
    train(whole)
    run = RunFolder.create(tmp_path / "stopped", recipe)
    interrupt(CAM, "training_step", 4)
    with pytest.raises(Interrupted):
        train(run)
    torch.rand(7)
    train(RunFolder(run.path))
    assert_same_weights(weights(whole), weights(run))


def test_batches_of_the_methods_own_continue_bit_for_bit(tiny, tmp_path, interrupt):
    model = 'stage.model={head = "linear", embedding = "backbone", classes_per_batch = 2}'
    recipe = tiny('stage.method="csoa"', model, 'stage.schedule={name = "exponential", gamma = 0.5}')
    whole = RunFolder.create(tmp_path / "whole", recipe)
    train(whole)
    assert [round(event["lr"], 6) for event in events(whole)] == [0.01] * 3 + [0.005] * 3

    run = RunFolder.create(tmp_path / "stopped", recipe)
    steps = interrupt(CSoA, "training_step", 4)
    with pytest.raises(Interrupted):
        train(run)
    train(RunFolder(run.path))
    assert [batch.label.bincount().tolist() for batch, _ in steps] == [[4, 4]] * 6
    assert_same_weights(weights(whole), weights(run))


def test_a_killed_process_resumes_bit_for_bit(tiny, tmp_path):
    recipe = tiny("runtime.save_every_steps=2", "stage.epochs=3")
    whole = RunFolder.create(tmp_path / "whole", recipe)
    train(whole)

    run = RunFolder.create(tmp_path / "killed", recipe)
    process = subprocess.Popen([sys.executable, "-c", SLOW_TRAINING, run.path, "0.5"])
    deadline = time.monotonic() + 60
    while not (run.path / "metrics.jsonl").exists() or len(events(run)) < 5:
        assert process.poll() is None, "training ended by itself"
        assert time.monotonic() < deadline, "training does not move"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["position"] == [1, 1, 4]  # in the middle of the second epoch
    train(RunFolder(run.path))
    assert_same_weights(weights(whole), weights(run))


def test_a_torn_checkpoint_falls_back_to_the_one_before(tiny, tmp_path):
    whole = RunFolder.create(tmp_path / "whole", tiny())
    train(whole)
    run = RunFolder.create(tmp_path / "torn", tiny())
    train(run)
    run.weights_path("localizer").unlink()
    last = run.path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[: 1 << 12])
    train(run)  # from the end of the first epoch
    assert_same_weights(weights(whole), weights(run))


def test_resuming_under_another_recipe_is_refused(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny())
    train(run)
    run.weights_path("localizer").unlink()
    run.replace_recipe(tiny("stage.optim.lr=0.5"))
    with pytest.raises(RecipeError, match="written under another recipe"):
        train(run)
    run.replace_recipe(tiny("runtime.save_every_steps=7"))
    train(run)


def test_a_folder_with_a_run_is_refused_unless_told(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny())
    RunFolder.create(tmp_path / "run", tiny())  # it left nothing yet
    train(run)
    with pytest.raises(UsageError, match=r"continue it with --resume .*run, or start it over with --exist-ok"):
        RunFolder.create(tmp_path / "run", tiny())
    RunFolder.create(tmp_path / "run", tiny(), exist_ok=True)
    assert not run.weights_path("localizer").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("keep me")
    with pytest.raises(UsageError, match="is no run folder"):
        RunFolder.create(tmp_path / "other", tiny(), exist_ok=True)
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_two_processes_do_not_share_a_run(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny())
    with run.lock(), pytest.raises(UsageError, match="in use by another wsolfast process"):
        train(run)
    train(run)


def test_a_loss_that_is_not_finite_names_step_and_images(tiny, tmp_path, monkeypatch):
    def broken(self, batch, state):
        losses = CAM_STEP(self, batch, state)
        return losses if state.step < 2 else {"loss": losses["loss"] * float("nan")}

    CAM_STEP = CAM.training_step
    monkeypatch.setattr(CAM, "training_step", broken)
    run = RunFolder.create(tmp_path / "run", tiny())
    with pytest.raises(
        RunError, match=r"stage localizer, epoch 0, step 2: loss = nan, gradient norm = nan; images \S+, "
    ) as caught:
        train(run)
    assert caught.value.exit_code == 1


def test_workers_change_nothing(tiny, tmp_path):
    runs = [RunFolder.create(tmp_path / str(n), tiny(f"runtime.workers={n}", "stage.epochs=1")) for n in (0, 2)]
    for run in runs:
        train(run)
    assert_same_weights(weights(runs[0]), weights(runs[1]))


def test_bfloat16_and_channels_last_train(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny("runtime.amp=bf16", "runtime.channels_last=true", "stage.epochs=1"))
    train(run)
    assert all(tensor.isfinite().all() for tensor in weights(run).values() if tensor.is_floating_point())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleSpec("constant"), [1, 1, 1, 1, 1, 1]),
        (ScheduleSpec("step", milestones=(1, 2)), [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (ScheduleSpec("poly", power=2), [1, 25 / 36, 16 / 36, 9 / 36, 4 / 36, 1 / 36]),
        (ScheduleSpec("constant", warmup_steps=4), [0.25, 0.5, 0.75, 1, 1, 1]),
    ],
)
def test_schedules_at_two_steps_an_epoch(schedule, expected):
    assert [rate_at(schedule, step, 2, 3) for step in range(6)] == pytest.approx(expected)


def test_published_schedule_of_ci_cam():
    """0.0005 (1 - e/100)^0.9 0.5^(e // 14), set at the start of epochs."""
    schedule = ScheduleSpec("poly", milestones=tuple(range(14, 100, 14)), gamma=0.5, power=0.9, by_epoch=True)
    golden = {0: 5.0e-4, 1: 4.954977e-4, 14: 2.182673e-4, 28: 9.300563e-5, 50: 3.349292e-5, 99: 6.190989e-8}
    for epoch, rate in golden.items():
        for step in (3 * epoch, 3 * epoch + 2):
            assert 5e-4 * rate_at(schedule, step, 3, 100) == pytest.approx(rate, rel=1e-6)


def test_every_milestone_may_have_its_own_factor():
    schedule = ScheduleSpec("step", milestones=(1, 2), gamma=(0.5, 0.1))
    assert [rate_at(schedule, step, 1, 3) for step in range(3)] == pytest.approx([1, 0.5, 0.05])


def test_every_parameter_is_in_a_group_with_its_factor(tiny):
    recipe = tiny()
    method = build_method(recipe, recipe.stage[0], 2)
    factors = {"backbone_weight": 1.0, "backbone_bias": 2.0, "head_weight": 10.0, "head_bias": 20.0}
    optimizer = build_optimizer(method, OptimSpec(lr=0.1, lr_factors=factors), "stage.optim")
    assert {group["name"]: group["lr_factor"] for group in optimizer.param_groups} == factors
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters())


def test_a_factor_of_zero_freezes_its_group(tiny, tmp_path):
    recipe = tiny("stage.optim.lr_factors={backbone_weight=0, backbone_bias=0}", "stage.epochs=1")
    run = RunFolder.create(tmp_path / "run", recipe)
    torch.manual_seed(recipe.seed)
    train(run)
    after = weights(run)
    seed_everything(recipe.seed)
    before = build_method(recipe, recipe.stage[0], 2).state_dict()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, tensor in before.items():
        if not name.endswith(statistics):
            assert torch.equal(after[name], tensor) == name.startswith("backbone."), name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.method=camm", "stage.localizer.method: no method named 'camm'; did you mean 'cam'?"),
        ("stage.model.cam_rely=true", "unknown key 'stage.localizer.model.cam_rely'; did you mean 'cam_relu'?"),
        ("stage.model.head=round", "stage.localizer: cam: head: expected one of conv3, conv2, linear, pretrained"),
        ("stage.backbone.name=smal", "stage.localizer: no backbone named 'smal'; did you mean 'small'?"),
        ("stage.optim.lr_factors.heads=1", "unknown key 'stage.localizer.optim.lr_factors.heads'"),
        ("data.options.sise=3", "data: data set 'synthetic' has no option 'sise'"),
        ("data.crop=64", "data: crop: expected 1 <= crop <= resize"),
        (
            "runtime.device=tpu",
            "runtime.device: expected auto, cpu, cuda, cuda:N or mps, got 'tpu'; did you mean 'cpu'?",
        ),
    ],
)
def test_a_recipe_that_cannot_be_built_names_the_key(tiny, tmp_path, override, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        train(RunFolder.create(tmp_path / "run", tiny(override)))


def test_weights_are_found_beside_the_data(tmp_path):
    root, beside = tmp_path / "birds", tmp_path / "weights"
    for folder in (root, beside):
        folder.mkdir()
        (folder / "net.pt").touch()
    assert find_weights("net.pt", str(root)) == str(root / "net.pt")
    (root / "net.pt").unlink()
    assert find_weights("net.pt", str(root)) == str(root / ".." / "weights" / "net.pt")
    given = str(beside / "net.pt")
    assert find_weights(given, str(root)) == given
    for elsewhere in ("absent.pt", "none", "VGG16_Weights.IMAGENET1K_V1"):
        assert find_weights(elsewhere, str(root)) == elsewhere
    assert find_weights("net.pt", None) == "net.pt"


@pytest.mark.parametrize(
    "name", [*(name for name in list_recipes() if name.startswith(("cub50/", "pets3/", "ilsvrc400/")))]
)
def test_recipes_of_the_small_sets_fall_back_to_torchvisions_weights_and_say_so(name, tmp_path, caplog):
    recipe = load_recipe(name, [f"data.root={tmp_path}"])
    settled = settle_weights(recipe)
    files = [stage.backbone.weights for stage in recipe.stage if stage.backbone.weights in PUBLIC]
    assert files
    for before, after in zip(recipe.stage, settled.stage, strict=True):
        if before.backbone.weights in PUBLIC:
            assert class_names_of(after.backbone.weights)
            assert not after.backbone.layout or not after.backbone.layout.startswith("tf")
            said = f"{before.backbone.weights} is not in the current folder, {tmp_path} or {tmp_path}/../weights; "
            assert f"{said}{after.backbone.weights} are taken instead" in caplog.text
        else:
            assert after == before
    caplog.clear()
    for file in files:
        (tmp_path / file).touch()
    assert settle_weights(recipe) == recipe
    own = load_recipe(name, [f"data.root={tmp_path}", f"stage.{recipe.stage[0].name}.backbone.weights=mine.pt"])
    assert settle_weights(own).stage[0].backbone.weights == "mine.pt"
    assert not caplog.text


def test_seconds_of_training_add_up_and_stay(tiny, tmp_path, monkeypatch, interrupt):
    """An hour in the table is an hour of training, however often the run was continued or asked for again."""
    run = RunFolder.create(tmp_path / "run", tiny())

    def seconds():
        return json.loads((run.path / "env.json").read_text()).get("seconds", 0.0)

    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    interrupt(CAM, "training_step", 1)
    with pytest.raises(Interrupted):
        train(run)
    first = seconds()
    assert first > 0
    train(RunFolder(run.path))
    both = seconds()
    assert both > first
    train(RunFolder(run.path))
    assert seconds() == both
