import pytest
import torch
from combined_maps import assert_combined
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.testing import assert_close, seeded

NLCCAM = get_stage("nl_ccam")


def model(**options):
    torch.manual_seed(0)
    return NLCCAM(backbones.build("small"), 5, **options).double()


def test_loss_is_the_cross_entropy_of_the_pooled_class_maps(batch, state):
    method = model(nl_positions=["conv4"]).eval()
    features = method.backbone(batch.image)["conv5"]
    logits = torch.einsum("kc,nchw->nkhw", method.classifier.weight, features).mean((2, 3)) + method.classifier.bias
    assert_close(method.training_step(batch, state)["loss"], functional.cross_entropy(logits, batch.label))
    assert_close(method.classify(batch.image), logits)


@pytest.mark.parametrize("gamma", ["nl_quadratic", "linear", "none"])
@torch.no_grad()
def test_map_is_the_combination_of_all_class_maps(batch, gamma):
    method = model(nl_positions=[], gamma=gamma, gamma_m=2).eval()
    features = method.backbone(batch.image)["conv5"]
    class_maps = torch.einsum("kc,nchw->nkhw", method.classifier.weight, features)
    found = method.localize(batch.image, batch.label, topk=2)
    assert_combined(found, method.combination, class_maps, batch.label)


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


def test_state_dict_goes_around(batch):
    method, other = model(), NLCCAM(backbones.build("small"), 5).double()
    for parameter in method.parameters():
        parameter.data += 0.1 * seeded(tuple(parameter.shape), dtype=torch.float64)
    other.load_state_dict(method.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval().classify(batch.image), method.eval().classify(batch.image))
