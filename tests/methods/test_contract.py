"""The contract of every method in the folder, with the options of its demo recipe."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from wsolfast import backbones, data
from wsolfast.engine.assembly.build import check_float64
from wsolfast.engine.assembly.optimizer import build_optimizer, rate_at
from wsolfast.engine.demo import demo_recipes
from wsolfast.engine.run.errors import BackendError
from wsolfast.engine.training import artefacts
from wsolfast.methods import Method, display_name, get_stage, list_methods, list_stages
from wsolfast.metrics import BoxAccuracy
from wsolfast.metrics.baselines import center_box
from wsolfast.ops import _registry
from wsolfast.recipe import load_recipe
from wsolfast.reference import confidence_mask, context_pool_update
from wsolfast.types import TrainState

SIZE = 64
RECIPES = {name.rpartition("/")[2]: name for name in demo_recipes(baselines=True)}
# Whole bodies tell the class: this test is about learning at all, not about partial activation.
SET = {"num_classes": 2, "size": SIZE, "num_train": 128, "num_test": 64, "cooccurrence": 0.0, "body_cue": 1.0}


def stages_of(method):
    """Return the stages of a method's demo recipe, in the order in which they are trained."""
    return load_recipe(RECIPES[method]).stage


def stage_of(name):
    """Return the stage of the demo recipe that trains ``method`` or ``method.stage``."""
    (stage,) = [stage for stage in stages_of(name.partition(".")[0]) if stage.method == name]
    return stage


def build(name, num_classes=2, **options):
    """Build the stage with random weights; a method without a loss is fitted, or it could not localise."""
    torch.manual_seed(0)
    stage = stage_of(name)
    backbone = backbones.build(stage.backbone.name, layout=stage.backbone.layout, input_size=SIZE)
    net = get_stage(stage.method)(backbone, num_classes, **stage.model | options)
    for network, source in stage.networks.items():
        (earlier,) = [one.method for one in stages_of(name.partition(".")[0]) if one.name == source]
        net.take_network(network, get_stage(earlier)(copy.deepcopy(backbone), num_classes).eval().requires_grad_(False))
    return fit(net, data.open_dataset("synthetic", None, "train_weaksup", **SET | {"num_classes": num_classes}), 4)


@torch.no_grad()
def fit(net, dataset, most=None):
    """Fit a method that has no loss to its classes, of which it sees ``most`` images each."""
    net.eval()
    for label in dataset.labels.unique().tolist() if net.fits else ():
        members = (dataset.labels == label).nonzero().flatten().tolist()[:most]
        sums = {}
        for look in range(net.looks):
            sums = net.fit_batch(data.collate([dataset[index] for index in members]), sums, look)
        net.keep_class(label, net.fit_class(sums)[0])
    return net.train()


def batch_of(split="train_weaksup", count=8, net=None, **options):
    """Images of the set, those that ``net`` would choose; what its stage uses is a map, bright where the image is, or a
    box.
    """
    dataset = data.open_dataset("synthetic", None, split, **SET | options)
    chosen = None if net is None else net.batch_sampler(dataset.labels, count, 0)
    samples = [dataset[i] for i in (range(count) if chosen is None else next(iter(chosen)))]
    if net is None or not stage_of(name_of(net)).uses:
        return data.collate(samples)
    maps = functional.adaptive_avg_pool2d(torch.stack([sample.image for sample in samples]).float().mean(1) / 255, 8)
    left = {"pseudo_mask": (maps - maps.amin((1, 2), keepdim=True)).half()}
    left["pseudo_box"] = torch.tensor([0.125, 0.25, 0.75, 0.5]).double() + torch.arange(count)[:, None] / 32
    collate = artefacts.prepare({field: left[field] for field in stage_of(name_of(net)).uses}, dataset, net)
    return collate([dataset[i] for i in range(count)])


def places(found):
    """Return the maps of a localization, or its boxes where the method gives boxes."""
    return found.localization_map if found.boxes is None else found.boxes


def name_of(net):
    return next(name for name in list_stages() if get_stage(name) is type(net))


# What Method.evidence shows, by stage; none of the others.
EVIDENCE = {
    "acol": {"map A", "map B"},
    "ci_cam": {"map without context", "context of the label", "context used"},
    "csoa": {"late map", "early map", "confident"},
    "gc_net": {"mask"},
    "scm": {"class attention"},
    "spa": {"coarse map"},
    "spg": {"B1", "B2", "C"},
    "ts_cam": {"class attention"},
}

# What a training step logs beside losses and accuracy, by stage.
LOGGED = {"i2c": {"skipped"}}

# Of two-class learning: methods, and options beside those of their demo recipe.
LEARNED = {
    **{method: {} for method in list_methods()},
    "cam, tap": {"pool": "tap"},
    "adl, tap": {"pool": "tap"},
    "meil": {"positions": ["conv3", "conv4"]},
}

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
every_method = pytest.mark.parametrize("method", list_methods())
every_stage = pytest.mark.parametrize("name", list_stages())
every_trained_stage = pytest.mark.parametrize("name", [name for name in list_stages() if not get_stage(name).fits])


@every_method
def test_method_has_a_demo_recipe(method):
    assert method in RECIPES


@every_trained_stage
def test_losses_are_finite_and_gradients_reach_every_parameter_within_three_steps(name):
    """Some parameters wait for others: a non-local block's for its batch norm, CI-CAM's enhancement for its pool."""
    net = build(name).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    reached = {key: False for key, parameter in net.named_parameters() if parameter.requires_grad}
    for step in range(3):
        losses = net.training_step(batch_of(net=net), TrainState(epoch=99, epochs=100, step=97 + step, steps=100))
        assert losses["loss"].shape == ()
        assert all(key in ("loss", "accuracy", *LOGGED.get(name, ())) or key.startswith("loss_") for key in losses)
        assert ("accuracy" in losses) == net.classifies
        assert all(value.isfinite().all() for value in losses.values())
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        for key, parameter in net.named_parameters():
            if key in reached:
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
                reached[key] |= bool(parameter.grad.any())
    assert not [key for key, seen in reached.items() if not seen]


@every_stage
def test_param_groups_hold_every_trainable_parameter_once(name):
    net = build(name)
    grouped = [id(parameter) for group in net.param_groups() for parameter in group.params]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters() if p.requires_grad)


@every_stage
@torch.no_grad()
def test_maps_are_in_the_unit_interval_or_boxes_finite_and_both_deterministic(name):
    net = build(name, num_classes=3).eval()
    batch = batch_of("test", count=4)
    first, second = (net.localize(batch.image, batch.label, topk=2) for _ in range(2))
    assert first.classes.shape == places(first).shape[:2] == (4, 3 if net.classifies else 1)
    assert torch.equal(first.classes[:, 0], batch.label)
    assert torch.equal(places(first), places(second))
    assert (first.boxes is not None) == net.gives_boxes
    if net.gives_boxes:
        assert first.boxes.shape[2:] == (4,)
        assert first.boxes.isfinite().all()
    else:
        assert first.localization_map.min() >= 0
        assert first.localization_map.max() <= 1
    if not net.classifies:
        assert first.logits is None
        return
    assert first.logits.shape == (4, 3)
    assert torch.equal(first.classes[:, 1:], first.logits.topk(2).indices)
    assert torch.equal(first.logits, second.logits)
    torch.testing.assert_close(net.classify(batch.image), first.logits, rtol=1e-4, atol=1e-5)  # sums in another order


@every_stage
@torch.no_grad()
def test_only_maps_that_combine_classes_depend_on_another_views_ranking(name):
    net = build(name, num_classes=4).eval()
    batch = batch_of("test", count=2)
    plain = net.localize(batch.image, batch.label, topk=0)
    reverse = -plain.logits if net.classifies else torch.rand(2, 4)
    ranked = net.localize(batch.image, batch.label, topk=0, ranking=reverse)
    combines = hasattr(net, "combination") and net.combination.gamma != "none"
    assert torch.equal(places(plain), places(ranked)) != combines
    assert torch.equal(plain.classes, ranked.classes)


@every_stage
@torch.no_grad()
def test_features_of_one_pass_are_classified_and_localised(name):
    net = build(name).eval()
    batch = batch_of("test", count=2)
    shallow = net.backbone.stages[0].name
    features = net.features(batch.image, [shallow])
    assert set(features) == {*net.feature_stages, shallow}
    every = net.backbone(batch.image)
    assert all(torch.equal(found, every[stage]) for stage, found in features.items())
    found = net.localize_features(features, batch.image.shape[-2:], batch.label, 1)
    expected = net.localize(batch.image, batch.label, 1)
    assert torch.equal(places(found), places(expected))
    assert torch.equal(found.classes, expected.classes)
    if net.classifies:
        assert torch.equal(net.classify_features(features), net.classify(batch.image))


@pytest.mark.parametrize("name", [name for name in list_stages() if get_stage(name).classifies])
def test_gradients_of_a_class_reach_the_features_and_no_further(name):
    """Grad-CAM and its kin then need no hook and no second pass of the backbone."""
    net = build(name).eval().requires_grad_(False)
    with torch.no_grad():
        found = net.features(batch_of("test", count=2).image)
    features = {stage: one.requires_grad_() for stage, one in found.items()}
    net.classify_features(features)[:, 0].sum().backward()
    assert features[net.feature_stages[0]].grad.any()


@every_stage
@torch.no_grad()
def test_maps_do_not_depend_on_the_other_images_of_the_batch(name):
    net = build(name).eval()
    batch = batch_of("test", count=3)
    together = net.localize(batch.image, batch.label, topk=0)
    alone = net.localize(batch.image[1:2], batch.label[1:2], topk=0)
    # Convolutions of another batch size may sum in another order.
    torch.testing.assert_close(places(together)[1:2], places(alone), rtol=1e-3, atol=1e-3)


@every_stage
@torch.no_grad()
def test_state_dict_round_trip(name):
    net, batch = build(name).eval(), batch_of("test", count=2)
    for parameter in net.parameters():
        parameter.add_(0.01)
    twin = build(name).eval()
    twin.load_state_dict(copy.deepcopy(net.state_dict()))
    maps = [places(m.localize(batch.image, batch.label)) for m in (net, twin)]
    assert torch.equal(*maps)


@pytest.mark.slow
@pytest.mark.parametrize("learned", LEARNED)
def test_method_learns_two_classes_and_beats_the_centre_box(learned):
    """All its stages, one after the other; the last one localises, the last that can classify ranks the classes."""
    nets, exported = {}, {}
    for stage in stages_of({"meil": "eil"}.get(learned, learned).partition(",")[0]):
        net = nets[stage.name] = build(stage.method, **LEARNED[learned])
        for part in net.starts_with if stage.backbone.from_stage is not None else ():
            earlier = nets[stage.backbone.from_stage].get_submodule(part)
            net.get_submodule(part).load_state_dict(earlier.state_dict())
        for network, source in stage.networks.items():
            net.take_network(network, nets[source].requires_grad_(False))
        whole = data.open_dataset("synthetic", None, "train_weaksup", **SET)
        if net.fits:
            fit(net, whole)
        else:
            learn(net, stage, {field: exported[source][field] for field, source in stage.uses.items()})
        net.eval()
        with torch.no_grad():
            exported[stage.name] = net.export(data.collate([whole[i] for i in range(len(whole))]))
    test = data.open_dataset("synthetic", None, "test", **SET)
    accuracy, centre = BoxAccuracy(), BoxAccuracy()
    batch = data.collate([test[i] for i in range(len(test))])
    notes = [test.annotations(i) for i in range(len(test))]
    sizes = torch.tensor([note.size for note in notes])
    boxes = [note.boxes for note in notes]
    with torch.no_grad():
        found = places(net.localize(batch.image, batch.label, topk=0))[:, 0]
        ranks = [net for net in nets.values() if net.classifies][-1].classify(batch.image).topk(2).indices
    if net.gives_boxes:
        accuracy.update_boxes(found, boxes, batch.label, ranks)
    else:
        accuracy.update(found, sizes, boxes, batch.label, ranks)
    centre.update_boxes(center_box(sizes), boxes, batch.label, ranks)
    assert accuracy.compute()["top1_cls"] > 85
    assert accuracy.compute()["gt_known_loc"] > centre.compute()["gt_known_loc"]


def learn(net, stage, exported):
    train = data.open_dataset("synthetic", None, "train_weaksup", train=True, **SET)
    collate = artefacts.prepare(exported, train, net)
    optimizer = build_optimizer(net, stage.optim, "stage.optim")
    epochs = 20 if net.gives_boxes else 7  # four numbers of pooled features say where an object is after more steps
    for epoch in range(epochs):
        train.set_epoch(epoch)
        net.train()
        order = net.batch_sampler(train.labels, 16, epoch)
        if order is None:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch)).split(16)
        loader = DataLoader(train, batch_sampler=[list(map(int, batch)) for batch in order], collate_fn=collate)
        for step, batch in enumerate(loader, start=epoch * len(loader)):
            state = TrainState(epoch * stage.epochs // epochs, stage.epochs, step, epochs * len(loader))
            for group in optimizer.param_groups:
                group["lr"] = stage.optim.lr * group["lr_factor"] * rate_at(stage.schedule, step, len(loader), epochs)
            loss = net.training_step(batch, state)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class NoFloat64(TorchDispatchMode):
    """A device without float64: ops run as their references, and whatever widens a tensor to float64 is an error.

    Constants that are computed on the CPU and narrowed before they go to the device may be float64.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in _registry._REFERENCES:
            with self:
                return _registry._REFERENCES[func](*args, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        given, got = ({one.dtype for one in tree_leaves(all) if isinstance(one, torch.Tensor)} for all in (args, found))
        assert torch.float64 not in got or not given & {torch.float32, torch.bfloat16, torch.float16}, func
        return found


@every_stage
def test_a_method_needs_no_float64_or_is_refused_where_there_is_none(name, monkeypatch):
    for module in (confidence_mask, context_pool_update):
        monkeypatch.setattr(module, "widest", lambda device: torch.float32)
    net, apple = build(name), torch.device("mps")
    if any(tensor.dtype == torch.float64 for tensor in net.state_dict().values()):
        with pytest.raises(BackendError, match="is float64, which Apple GPUs do not have; use --device cpu"):
            check_float64(net, apple, name)
        return
    check_float64(net, apple, name)
    batch = batch_of(net=net)
    with NoFloat64():
        net.training_step(batch, TrainState(epoch=99, epochs=100, step=97, steps=100))["loss"].backward()
        with torch.no_grad():
            net.eval().localize(batch.image, batch.label, topk=0)
            net.export(batch)


@every_method
def test_method_is_spelt_as_in_its_paper(method):
    spelt = display_name(method)
    assert "".join(filter(str.isalnum, spelt)).lower() == method.replace("_", "")
    assert f"`{method}`" in README
    assert display_name(f"{method}.localizer") == spelt


def test_unknown_method_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'csoa'"):
        display_name("cso")
    with pytest.raises(KeyError, match="did you mean 'spa'"):
        get_stage("spaa")


def test_every_stage_is_found_by_its_name():
    assert "spa" in list_stages()
    assert all(issubclass(get_stage(name), Method) for name in list_stages())


@every_stage
def test_evidence_is_maps_in_the_unit_range(name):
    net = build(name).eval()
    batch = batch_of(net=net)
    with torch.no_grad():
        found = net.evidence(batch.image, batch.label)
    assert set(found) == EVIDENCE.get(name, set())
    for maps in found.values():
        assert maps.dim() == 3
        assert len(maps) == len(batch.label)
        assert maps.isfinite().all()
        assert maps.min() >= 0
        assert maps.max() <= 1
