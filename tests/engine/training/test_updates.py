"""Clipped gradients, averaged weights and the scale of float16: what a step does, and what a run leaves."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsolfast.engine.assembly.build import build_method
from wsolfast.engine.assembly.checkpoint import load_checkpoint
from wsolfast.engine.assembly.network import load_method
from wsolfast.engine.assembly.optimizer import build_optimizer
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.engine.run.errors import RunError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.gradients import StepResult
from wsolfast.engine.training.train import train
from wsolfast.engine.training.updates import WeightAverage, WeightUpdate
from wsolfast.methods.cam import CAM
from wsolfast.recipe import OptimSpec, RecipeError, dump_recipe, parse_recipe


@pytest.fixture
def method(tiny):
    recipe = tiny()
    return build_method(recipe, recipe.stage[0], 2)


def updated(method, spec, gradient, scaler=None):
    """The update of a method whose gradients are all ``gradient``, before its step."""
    update = WeightUpdate(method, build_optimizer(method, spec, "stage.optim"), spec, scaler)
    for parameter in method.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    return update


def scaled(scale):
    """A scaler that has scaled a loss by ``scale``."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(torch.ones(()))
    return scaler


def events(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("scaler", [None, 2.0**10], ids=["float32", "float16"])
def test_gradients_are_clipped_after_their_scale_is_out(method, scaler):
    count = sum(parameter.numel() for parameter in method.parameters())
    scale = scaler or 1.0
    update = updated(method, OptimSpec(lr=1.0, momentum=0.0, grad_clip=2.0), 3.0 * scale, scaler and scaled(scaler))
    before = [parameter.detach().clone() for parameter in method.parameters()]
    # Single precision: the norm is a sum of a quarter of a million squares.
    assert float(update.gradient_norm()) == pytest.approx(3.0 * count**0.5, rel=1e-5)
    update.apply()
    moved = [b - p.detach() for b, p in zip(before, method.parameters(), strict=True)]
    # The same sum; torch adds 1e-6 to the norm that it divides by.
    assert float(nn.utils.get_total_norm(moved)) == pytest.approx(2.0, rel=1e-4)
    assert update.average is None


def test_a_gradient_below_the_limit_is_left_alone(method):
    update = updated(method, OptimSpec(lr=1.0, momentum=0.0, grad_clip=1e6), 0.25)
    before = [parameter.detach().clone() for parameter in method.parameters()]
    update.gradient_norm()
    update.apply()
    for old, parameter in zip(before, method.parameters(), strict=True):
        assert torch.equal(parameter, old - 0.25)


def test_the_average_is_that_of_torch(method):
    theirs = AveragedModel(method, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    theirs.update_parameters(method)  # torch begins its average with the first weights that it is given
    ours = WeightAverage(method, 0.75)
    for step in range(4):
        with torch.no_grad():
            for number, tensor in enumerate(method.state_dict().values()):
                tensor.add_(step + number) if tensor.is_floating_point() else tensor.add_(7)
        ours.update()
        theirs.update_parameters(method)
    expected = theirs.module.state_dict()
    assert expected.keys() == ours.state.keys()
    counts = [name for name in expected if name.endswith("num_batches_tracked")]
    assert counts
    for name, tensor in ours.state.items():
        # Counts have no mean: torch rounds one down, ours are those of the last weights.
        assert torch.equal(tensor, method.state_dict()[name] if name in counts else expected[name]), name


def test_averaged_weights_are_there_only_while_entered(method):
    update = updated(method, OptimSpec(lr=0.1, ema=0.5), 1.0)
    update.gradient_norm()
    update.apply()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    with update.averaged():
        assert all(torch.equal(tensor, update.average.state[name]) for name, tensor in method.state_dict().items())
        assert any(not torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_without_options_nothing_is_kept_or_changed(method):
    update = updated(method, OptimSpec(lr=0.1), 1.0)
    assert update.state() == {}
    weights = [id(tensor) for tensor in method.parameters()]
    with update.averaged():
        assert [id(tensor) for tensor in method.parameters()] == weights
    assert not update.lower_scale(StepResult({"loss": 1.0}, float("inf"), stop=False, save=False))


@pytest.mark.parametrize(
    ("scale", "loss", "gradient", "fault"),
    [
        (1024.0, 0.5, float("inf"), True),
        (1024.0, 0.5, float("nan"), True),
        # What is wrong is the loss itself.
        (1024.0, float("nan"), float("nan"), False),
        # A smaller scale would not help.
        (1.0, 0.5, float("inf"), False),
        # Finite gradients whose norm is too large for float32: torch would not lower the scale.
        (1024.0, 0.5, 1e37, False),
    ],
)
def test_the_scale_is_at_fault_only_where_a_smaller_one_may_help(method, scale, loss, gradient, fault):
    update = updated(method, OptimSpec(), gradient, scaled(scale))
    norm = float(update.gradient_norm())
    result = StepResult({"loss": loss}, norm, stop=False, save=False)
    assert not result.is_finite
    assert update.lower_scale(result) == fault


def test_a_run_keeps_the_average_and_the_last_weights(tiny, tmp_path):
    plain, run = (
        RunFolder.create(tmp_path / name, tiny(*options))
        for name, options in (("a", ()), ("b", ["stage.optim.ema=0.9"]))
    )
    train(plain)
    train(run)
    saved = load_checkpoint(run.weights_path("localizer").parent)
    average, raw = load_file(run.weights_path("localizer")), load_file(run.raw_weights_path("localizer"))
    last = load_file(plain.weights_path("localizer"))
    for name, tensor in last.items():
        assert torch.equal(tensor, raw[name]), name
        assert torch.equal(saved["method"][name], raw[name]), name
        assert torch.equal(saved["ema"][name], average[name]), name
    assert any(not torch.equal(tensor, raw[name]) for name, tensor in average.items())
    # Evaluation takes the average, unless it is told not to.
    for override, weights in (((), average), (("evaluate.ema=true",), average), (("evaluate.ema=false",), raw)):
        recipe = parse_recipe(dump_recipe(run.recipe), "tiny", override)
        state = load_method(run, localizer_of(recipe), 2).state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in state.items())
    assert not plain.raw_weights_path("localizer").exists()


def test_checkpoints_have_the_layout_that_they_had(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny("stage.epochs=1"))
    train(run)
    saved = load_checkpoint(run.weights_path("localizer").parent)
    assert set(saved) == {"recipe", "images", "position", "method", "optimizer"}
    group = saved["optimizer"]["param_groups"][0]
    assert {"lr", "lr_factor", "name", "momentum", "params"} <= group.keys()
    assert "ema" not in dump_recipe(run.recipe)


def test_clipping_is_logged(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "run", tiny("stage.optim.grad_clip=1e-3"))
    train(run)
    assert all(event["gradient_norm"] > 1e-3 and event["clipped"] == 1.0 for event in events(run))
    free = RunFolder.create(tmp_path / "free", tiny("stage.epochs=1"))
    train(free)
    assert not any({"gradient_norm", "clipped"} & event.keys() for event in events(free))


def test_float16_trains_and_lowers_its_scale_where_it_must(tiny, tmp_path, monkeypatch):
    """A loss of thousands overflows at the usual scale of 65536; such steps are no failure."""
    step = CAM.training_step
    monkeypatch.setattr(
        CAM, "training_step", lambda self, batch, state: {"loss": step(self, batch, state)["loss"] * 4000}
    )
    recipe = tiny("runtime.amp=fp16", "stage.optim.lr=1e-7")
    run = RunFolder.create(tmp_path / "run", recipe)
    train(run)
    saved = load_checkpoint(run.weights_path("localizer").parent)
    assert saved["scaler"]["scale"] < 65536
    assert not (run.path / "nonfinite.json").exists()
    assert all(tensor.isfinite().all() for tensor in load_file(run.weights_path("localizer")).values())


def test_a_gradient_that_no_scale_makes_finite_stops_the_run(tiny, tmp_path, monkeypatch):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    step = CAM.training_step
    monkeypatch.setattr(
        CAM, "training_step", lambda self, batch, state: {"loss": Broken.apply(step(self, batch, state)["loss"])}
    )
    with pytest.raises(RunError, match="gradient norm = nan"):
        train(RunFolder.create(tmp_path / "run", tiny("runtime.amp=fp16", "stage.epochs=10")))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("stage.optim.grad_clip=0", "grad_clip: expected a norm, more than 0, got 0"),
        ("stage.optim.ema=1", "ema: expected a decay between 0 and 1, such as 0.999, got 1"),
        ("evaluate.ema=false", "evaluate.ema: no stage averages its weights"),
        ("runtime.amp='fp32'", "expected one of none, bf16, fp16, auto"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny, override, complaint):
    with pytest.raises(RecipeError, match=complaint):
        tiny(override)
