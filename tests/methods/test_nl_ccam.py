import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.testing import assert_close, seeded
from wsolfast.types import Batch

NLCCAM = get_stage("nl_ccam")


def model(**options):
    torch.manual_seed(0)
    return NLCCAM(backbones.build("small"), 5, **options).double()


def test_loss_is_the_cross_entropy_of_the_pooled_class_maps(batch, clock):
    method = model(nl_positions=["conv4"]).eval()
    features = method.backbone(batch.image)["conv5"]
    logits = torch.einsum("kc,nchw->nkhw", method.classifier.weight, features).mean((2, 3)) + method.classifier.bias
    assert_close(method.training_step(batch, clock)["loss"], functional.cross_entropy(logits, batch.label))
    assert_close(method.classify(batch.image), logits)


@pytest.mark.parametrize("gamma", ["nl_quadratic", "linear", "none"])
@torch.no_grad()
def test_map_is_the_combination_of_all_class_maps(batch, gamma):
    method = model(nl_positions=[], gamma=gamma, gamma_m=2).eval()
    features = method.backbone(batch.image)["conv5"]
    class_maps = torch.einsum("kc,nchw->nkhw", method.classifier.weight, features)
    found = method.localize(batch.image, batch.label, topk=2)
    order = found.logits.argsort(dim=1, descending=True)
    assert torch.equal(found.classes, torch.cat((batch.label[:, None], order[:, :2]), dim=1))
    for n in range(6):
        if gamma == "none":
            expected = class_maps[n, found.classes[n]]
        else:
            weights = method.combination.of_ranks(5)
            expected = sum(share * class_maps[n, k] for share, k in zip(weights, order[n], strict=True)).expand(3, 4, 4)
        low, high = expected.amin((1, 2), keepdim=True), expected.amax((1, 2), keepdim=True)
        assert_close(found.localization_map[n], (expected - low) / (high - low))


@torch.no_grad()
def test_ranking_of_another_view_decides_which_maps_are_combined(batch):
    method = model(nl_positions=[], gamma="t1b0").eval()
    ranking = torch.zeros(6, 5, dtype=torch.float64)
    ranking[:, 3] = 1
    found = method.localize(batch.image, topk=1, ranking=ranking)
    assert found.classes.tolist() == [[3]] * 6
    assert_close(found.logits, method.classify(batch.image))
    cam = torch.einsum("c,nchw->nhw", method.classifier.weight[3], method.backbone(batch.image)["conv5"])
    high, low = cam.amax((1, 2), keepdim=True), cam.amin((1, 2), keepdim=True)
    assert_close(found.localization_map[:, 0], (cam - low) / (high - low))


@torch.no_grad()
def test_constant_features_give_a_map_of_zeros(batch):
    method = model(nl_positions=[]).eval()
    method.classifier.weight.zero_()
    assert not method.localize(batch.image).localization_map.any()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small", {"activation": "lrelu02", "hidden_channels": 7}),
        ("mobilenet_v2", {"nl_positions": ["conv3", "conv4"]}),
        ("resnet50", {"nl_positions": ["conv4"], "nl_kind": "dot_product"}),
    ],
)
def test_any_backbone_trains(name, options, batch, clock):
    batch = Batch(batch.image[:, :, :32, :32], batch.label, batch.image_id)
    method = NLCCAM(backbones.build(name), 5, **options)
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    method.training_step(batch, clock)["loss"].backward()
    silent = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent
    blocks = [module for name, module in method.backbone.named_children() if name.startswith("non_local_")]
    assert blocks
    for block in blocks:
        assert block.value.weight.grad.any()
        assert block.query.weight.grad.any()


def test_state_dict_goes_around(batch):
    method, other = model(), NLCCAM(backbones.build("small"), 5).double()
    for parameter in method.parameters():
        parameter.data += 0.1 * seeded(tuple(parameter.shape), dtype=torch.float64)
    other.load_state_dict(method.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval().classify(batch.image), method.eval().classify(batch.image))
