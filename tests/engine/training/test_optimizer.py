"""Groups of parameters, what decays, and the rates of schedules; training with them goes on bit for bit."""

import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from wsolfast import backbones
from wsolfast._compat import import_timm
from wsolfast.engine.assembly.build import build_method
from wsolfast.engine.assembly.optimizer import build_optimizer, rate_at
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods.cam import CAM
from wsolfast.recipe import OptimSpec, RecipeError, ScheduleSpec

ADAMW = OptimSpec("adamw", lr=1e-3, weight_decay=0.05)


@pytest.fixture(scope="module")
def vit():
    """CAM on timm's smallest transformer."""
    return CAM(backbones.build("timm:test_vit", input_size=64), 2)


@pytest.fixture
def small(tiny):
    """CAM on a small convolutional network."""
    recipe = tiny()
    return build_method(recipe, recipe.stage[0], 2)


def groups_of(method, spec):
    """By name of a parameter, its group."""
    names = {parameter: name for name, parameter in method.named_parameters()}
    optimizer = build_optimizer(method, spec, "stage.optim")
    return {names[p]: group for group in optimizer.param_groups for p in group["params"]}


def test_adamw_decays_what_timm_decays(vit):
    from timm.optim import param_groups_weight_decay

    timm = import_timm()
    whole = timm.create_model("test_vit", img_size=64)
    theirs = param_groups_weight_decay(whole, 0.05, no_weight_decay_list=whole.no_weight_decay())
    names = {parameter: name for name, parameter in whole.named_parameters()}
    expected = {names[p]: group["weight_decay"] for group in theirs for p in group["params"]}
    found = groups_of(vit, ADAMW)
    ours = {name.removeprefix("backbone.net."): group["weight_decay"] for name, group in found.items()}
    assert {"cls_token", "pos_embed", "blocks.0.norm1.weight", "patch_embed.proj.bias"} <= {
        name for name, decay in ours.items() if decay == 0
    }
    assert {name: decay for name, decay in ours.items() if name in expected} == {
        name: decay for name, decay in expected.items() if name in ours
    }
    assert ours.keys() - expected.keys() == {name for name in found if not name.startswith("backbone.")}


def test_adamw_takes_the_steps_of_torch(small):
    """The kernels decay, which are listed here by hand."""
    twin = {name: p.detach().clone().requires_grad_() for name, p in small.named_parameters()}
    kernels = [p for p in twin.values() if p.dim() == 4]
    rest = [p for p in twin.values() if p.dim() < 4]
    assert kernels
    assert rest
    theirs = torch.optim.AdamW([{"params": kernels}, {"params": rest, "weight_decay": 0.0}], lr=1e-3, weight_decay=0.05)
    ours = build_optimizer(small, ADAMW, "stage.optim")
    for step in range(3):
        for name, parameter in small.named_parameters():
            parameter.grad = torch.full_like(parameter, math.sin(step + 1.0))
            twin[name].grad = parameter.grad.clone()
        ours.step()
        theirs.step()
    for name, parameter in small.named_parameters():
        assert torch.equal(parameter, twin[name]), name


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_other_optimizers_keep_their_groups(small, name):
    optimizer = build_optimizer(small, OptimSpec(name, weight_decay=0.1), "stage.optim")
    assert [group["name"] for group in optimizer.param_groups] == [group.name for group in small.param_groups()]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


def test_layers_of_a_transformer_are_its_blocks(vit):
    found = groups_of(vit, OptimSpec("adamw", layer_decay=0.5, lr_factors={"head_weight": 10.0}))
    blocks = 1 + max(int(name.split(".")[3]) for name in found if ".blocks." in name)
    rates = {name.removeprefix("backbone.net."): group["lr_factor"] for name, group in found.items()}
    for block in range(blocks):
        assert rates[f"blocks.{block}.attn.qkv.weight"] == 0.5 ** (blocks - block)
    assert rates["cls_token"] == rates["pos_embed"] == rates["patch_embed.proj.weight"] == 0.5 ** (blocks + 1)
    assert {group["lr_factor"] for name, group in found.items() if not name.startswith("backbone.")} <= {1.0, 10.0}
    assert 10.0 in rates.values()


def test_layers_of_other_networks_are_their_stages(small):
    found = groups_of(small, OptimSpec("sgd", layer_decay=0.1, lr_factors={"backbone_weight": 2.0, "head_weight": 3.0}))
    kernels = {name: group["lr_factor"] for name, group in found.items() if name.endswith("0.weight")}
    expected = {"stem": 2e-4, "conv2": 2e-4, "conv3": 2e-3, "conv4": 2e-2, "conv5": 0.2}
    for stage, factor in expected.items():
        assert kernels[f"backbone.{stage}.0.weight"] == pytest.approx(factor, rel=1e-12)  # products of two doubles
    assert found["head.classifier.weight"]["lr_factor"] == 3.0
    assert len({group["name"] for group in found.values()}) == len({id(group) for group in found.values()})


def test_inserted_layers_are_of_their_stage():
    backbone = backbones.build("small")
    backbone.insert("conv3", "extra", torch.nn.Conv2d(64, 64, 1))
    layers = backbone.parameter_layers()
    assert layers.keys() == dict(backbone.named_parameters()).keys()
    assert layers["extra.weight"] == layers["conv3.0.weight"] == 1


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "test_vit2"])
def test_every_parameter_of_a_timm_network_has_a_layer(name):
    backbone = backbones.build(f"timm:{name}")
    layers = backbone.parameter_layers()
    assert layers.keys() == dict(backbone.named_parameters()).keys()
    assert set(layers.values()) == set(range(1 + max(layers.values())))


def test_networks_without_layers_are_refused_in_one_line(vit, monkeypatch):
    from timm.models import VisionTransformer

    monkeypatch.delattr(VisionTransformer, "group_matcher")
    with pytest.raises(
        RecipeError, match=r"stage.a.optim.layer_decay: .*timm does not group the layers of a VisionTransformer"
    ):
        build_optimizer(vit, OptimSpec("adamw", layer_decay=0.5), "stage.a.optim")


def rates(schedule, steps_per_epoch, epochs):
    return [rate_at(schedule, step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)]


def test_cosine_falls_from_the_end_of_the_warm_up():
    found = rates(ScheduleSpec("cosine", warmup_steps=2, min_factor=0.1), 3, 2)
    wave = [0.5 + 0.5 * math.cos(math.pi * k / 4) for k in range(4)]
    assert found == pytest.approx([0.5, 1.0, *(0.1 + 0.9 * w for w in wave)])
    in_epochs = rates(ScheduleSpec("cosine", warmup_epochs=2 / 3, min_factor=0.1), 3, 2)
    assert found == in_epochs


def test_cosine_is_that_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=0.2)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(ScheduleSpec("cosine", min_factor=0.2), 4, 2) == pytest.approx(expected)


def test_cosine_by_epoch_stands_still_within_epochs():
    found = rates(ScheduleSpec("cosine", by_epoch=True), 2, 4)
    assert found[::2] == found[1::2] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * e / 4) for e in range(4)])


def test_a_warm_up_longer_than_the_stage_only_rises():
    found = rates(ScheduleSpec("cosine", warmup_steps=10), 2, 2)
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_ts_cam_falls_at_every_epoch_that_a_step_divides():
    """TS-CAM on ILSVRC: steps 10 and 12 of 20 epochs, which are counted from 1."""
    found = rates(ScheduleSpec("step", milestones=(9, 11, 19)), 1, 20)
    falls = [epoch + 2 for epoch, (before, after) in enumerate(pairwise(found)) if after < before]
    assert falls == [epoch for epoch in range(1, 21) if any(epoch % step == 0 for step in (10, 12))] == [10, 12, 20]
    assert found[-1] == pytest.approx(1e-3)


def test_gc_net_compounds_a_linear_fall():
    """The product of (30 - e) / 10 over epochs 20 to 29, which is 10! / 10^10."""
    found = rates(ScheduleSpec("compound_linear", milestones=(20,)), 2, 30)
    assert found[:42] == [1.0] * 42
    assert found[42] == found[43] == pytest.approx(0.9)
    assert found[44] == pytest.approx(0.9 * 0.8)
    assert found[-1] == pytest.approx(math.factorial(10) / 1e10)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("stage.schedule={name='cosine', milestones=[1]}", "milestones: cosine has none"),
        ("stage.schedule={name='step', min_factor=0.1}", "min_factor: only cosine has one, step does not"),
        ("stage.schedule={name='cosine', min_factor=1.5}", "min_factor: expected a share of the rate, 0 to 1, got 1.5"),
        ("stage.schedule={name='cosine', warmup_steps=5, warmup_epochs=1}", "give one of them"),
        ("stage.schedule={name='cosine', warmup_epochs=-1}", "a warm-up takes 0 steps or more, got -1"),
        ("stage.schedule={name='compound_linear'}", "compound_linear takes one, the epoch of 2"),
        ("stage.schedule={name='compound_linear', milestones=[2]}", "compound_linear takes one, the epoch of 2"),
        ("stage.schedule.name='cosin'", "expected one of constant, step"),
        ("stage.optim={name='adamw', layer_decay=0}", "layer_decay: expected more than 0 and at most 1, got 0"),
        ("stage.backbone.drop_path=1", "drop_path: expected a probability, at least 0 and below 1, got 1"),
        ("stage.optim={name='adamw', nesterov=true}", "nesterov: belongs to sgd, adamw has none"),
        ("stage.optim.name='adamww'", "expected one of sgd, adam, adamw"),
        ("stage.optim.layer_deca=0.5", "did you mean 'layer_decay'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny, override, complaint):
    with pytest.raises(RecipeError, match=complaint):
        tiny(override)


OPTIONS = {
    "adamw, cosine, layers": (
        "stage.optim={name='adamw', lr=1e-3, weight_decay=0.05, layer_decay=0.5}",
        "stage.schedule={name='cosine', warmup_steps=2, min_factor=0.01}",
    ),
    "drop path": ("stage.backbone={name='timm:test_vit', drop_path=0.5}",),
    "average": ("stage.optim.ema=0.7",),
    "clipped": ("stage.optim.grad_clip=0.01",),
    "float16": ("runtime.amp=fp16",),
    "all": (
        "stage.optim={name='adamw', lr=1e-3, weight_decay=0.05, layer_decay=0.5, grad_clip=0.5, ema=0.7}",
        "stage.schedule={name='cosine', warmup_epochs=0.5}",
        "stage.accumulate=2",
        "runtime.amp=fp16",
    ),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_interrupted_run_goes_on_bit_for_bit(tiny, tmp_path, interrupt, option):
    recipe = tiny(*OPTIONS[option])
    whole = RunFolder.create(tmp_path / "whole", recipe)
    train(whole)
    run = RunFolder.create(tmp_path / "stopped", recipe)
    interrupt(CAM, "training_step", 4)
    with pytest.raises(Interrupted):
        train(run)
    torch.rand(7)
    train(RunFolder(run.path))
    one, other = (load_file(each.weights_path("localizer")) for each in (whole, run))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
