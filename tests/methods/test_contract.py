"""What every method in the folder keeps, with the options of its demo recipe."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from wsolfast import backbones, data
from wsolfast.engine.build import build_optimizer, rate_at
from wsolfast.methods import Method, get_stage, list_methods, list_stages
from wsolfast.metrics import BoxAccuracy
from wsolfast.metrics.baselines import center_box
from wsolfast.recipe import load_recipe, recipe_path
from wsolfast.types import Clock

SIZE = 64
# Whole bodies tell the class: this test is about learning at all, not about partial activation.
SET = {"num_classes": 2, "size": SIZE, "num_train": 128, "num_test": 64, "cooccurrence": 0.0, "body_cue": 1.0}


def stage_of(method):
    """The one stage of a one-stage method's demo recipe."""
    (stage,) = load_recipe(f"demo/{method}").stage
    return stage


def build(method, num_classes=2):
    torch.manual_seed(0)
    stage = stage_of(method)
    backbone = backbones.build(stage.backbone.name, layout=stage.backbone.layout, input_size=SIZE)
    return get_stage(stage.method)(backbone, num_classes, **stage.model)


def batch_of(split="train_weaksup", count=8, **options):
    dataset = data.open_dataset("synthetic", None, split, **SET | options)
    return data.collate([dataset[i] for i in range(count)])


every_method = pytest.mark.parametrize("method", list_methods())


@every_method
def test_method_has_a_demo_recipe(method):
    assert recipe_path(f"demo/{method}").exists()


@every_method
def test_losses_are_finite_and_gradients_reach_every_parameter_within_three_steps(method):
    """Some parameters wait for others: a non-local block's for its batch norm, CI-CAM's enhancement for its pool."""
    net = build(method).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    reached = {name: False for name, parameter in net.named_parameters() if parameter.requires_grad}
    for step in range(3):
        losses = net.training_step(batch_of(), Clock(epoch=99, epochs=100, step=97 + step, steps=100))
        assert losses["loss"].shape == ()
        assert all(name == "loss" or name.startswith("loss_") for name in losses)
        assert all(value.isfinite().all() for value in losses.values())
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        for name, parameter in net.named_parameters():
            if name in reached:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                reached[name] |= bool(parameter.grad.any())
    assert not [name for name, seen in reached.items() if not seen]


@every_method
def test_param_groups_hold_every_trainable_parameter_once(method):
    net = build(method)
    grouped = [id(parameter) for group in net.param_groups() for parameter in group.params]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters() if p.requires_grad)


@every_method
@torch.no_grad()
def test_maps_are_in_the_unit_interval_and_deterministic(method):
    net = build(method, num_classes=3).eval()
    batch = batch_of("test", count=4)
    first, second = (net.localize(batch.image, batch.label, topk=2) for _ in range(2))
    assert first.logits.shape == (4, 3)
    assert first.classes.shape == first.localization_map.shape[:2] == (4, 3)
    assert torch.equal(first.classes[:, 0], batch.label)
    assert torch.equal(first.classes[:, 1:], first.logits.topk(2).indices)
    assert first.localization_map.min() >= 0
    assert first.localization_map.max() <= 1
    assert torch.equal(first.localization_map, second.localization_map)
    assert torch.equal(first.logits, second.logits)
    torch.testing.assert_close(net.classify(batch.image), first.logits, rtol=1e-4, atol=1e-5)  # sums in another order


@every_method
@torch.no_grad()
def test_maps_do_not_depend_on_the_other_images_of_the_batch(method):
    net = build(method).eval()
    batch = batch_of("test", count=3)
    together = net.localize(batch.image, batch.label, topk=0)
    alone = net.localize(batch.image[1:2], batch.label[1:2], topk=0)
    # Convolutions of another batch size may sum in another order.
    torch.testing.assert_close(together.localization_map[1:2], alone.localization_map, rtol=1e-3, atol=1e-3)


@every_method
@torch.no_grad()
def test_state_dict_round_trip(method):
    net, batch = build(method).eval(), batch_of("test", count=2)
    for parameter in net.parameters():
        parameter.add_(0.01)
    twin = build(method).eval()
    twin.load_state_dict(copy.deepcopy(net.state_dict()))
    maps = [m.localize(batch.image, batch.label).localization_map for m in (net, twin)]
    assert torch.equal(*maps)


@pytest.mark.slow
@every_method
def test_method_learns_two_classes_and_beats_the_centre_box(method):
    net, stage = build(method), stage_of(method)
    train = data.open_dataset("synthetic", None, "train_weaksup", train=True, **SET)
    optimizer = build_optimizer(net, stage.optim, "stage.optim")
    epochs = 12
    for epoch in range(epochs):
        train.set_epoch(epoch)
        net.train()
        loader = DataLoader(
            train, 16, shuffle=True, collate_fn=data.collate, generator=torch.Generator().manual_seed(epoch)
        )
        for step, batch in enumerate(loader, start=epoch * len(loader)):
            clock = Clock(epoch * stage.epochs // epochs, stage.epochs, step, epochs * len(loader))
            for group in optimizer.param_groups:
                group["lr"] = stage.optim.lr * group["lr_factor"] * rate_at(stage.schedule, step, len(loader), epochs)
            loss = net.training_step(batch, clock)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    test = data.open_dataset("synthetic", None, "test", **SET)
    net.eval()
    accuracy, centre = BoxAccuracy(), BoxAccuracy()
    batch = data.collate([test[i] for i in range(len(test))])
    notes = [test.annotations(i) for i in range(len(test))]
    sizes = torch.tensor([note.size for note in notes])
    boxes = [note.boxes for note in notes]
    with torch.no_grad():
        found = net.localize(batch.image, batch.label, topk=2)
    accuracy.update(found.localization_map[:, 0], sizes, boxes, batch.label, found.classes[:, 1:])
    centre.update_boxes(center_box(sizes), boxes, batch.label, found.classes[:, 1:])
    assert accuracy.compute()["top1_cls"] > 85
    assert accuracy.compute()["gt_known_loc"] > centre.compute()["gt_known_loc"]


def test_unknown_method_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'spa'"):
        get_stage("spaa")


def test_every_stage_is_found_by_its_name():
    assert "spa" in list_stages()
    assert all(issubclass(get_stage(name), Method) for name in list_stages())
