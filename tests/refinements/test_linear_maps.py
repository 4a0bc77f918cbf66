"""NWC and CCAM: other ways to add up what a linear classifier sees."""

import pytest
import torch

from wsolfast import backbones
from wsolfast.methods import Refined, get_stage
from wsolfast.refinements import LinearHead, Seen, get_refinement
from wsolfast.testing import assert_close, seeded

STAGES = (backbones.StageInfo("conv5", 4, 16),)


def min_max(values):
    """Scale a list of numbers to [0, 1], all zeros if they are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def head_of(weight, features, **more):
    return LinearHead(features, weight, torch.full((len(weight),), 3.0, dtype=weight.dtype), **more)


def build(method, **options):
    torch.manual_seed(0)
    return get_stage(method)(backbones.build("small"), 5, **options).double().eval()


@pytest.mark.parametrize("relu_maps", [False, True])
def test_nwc_adds_up_what_speaks_for_the_class(relu_maps):
    weight = seeded((3, 4), dtype=torch.float64)
    features = seeded((2, 4, 2, 3), dtype=torch.float64, seed=1).relu()
    classes = torch.tensor([[2, 0], [1, 1]])
    found = get_refinement("nwc")(STAGES)(
        Seen((32, 48), {}, classes, head=head_of(weight, features, relu_maps=relu_maps))
    )
    for n in range(2):
        for m in range(2):
            chosen = weight[classes[n, m]].tolist()
            places = [features[n, :, p // 3, p % 3].tolist() for p in range(6)]
            sums = [sum(max(w, 0) * f for w, f in zip(chosen, place, strict=True)) for place in places]
            assert_close(found[n, m].flatten(), torch.tensor(min_max(sums), dtype=torch.float64))


def test_nwc_by_hand():
    features = torch.tensor([[4.0, 1, 0], [3, 0, 1]]).view(1, 2, 1, 3)
    seen = Seen((16, 48), {}, torch.tensor([[0]]), head=head_of(torch.tensor([[0.5, -1.0]]), features))
    # CAM would be -1, 0.5, -1: the object's strongest place is not seen.
    assert get_refinement("nwc")(STAGES)(seen).flatten().tolist() == [1, 0.25, 0]


@torch.no_grad()
def test_nwc_leaves_scores_and_classes_as_they_are(batch):
    cam = build("cam")
    expected, found = (method.localize(batch.image, batch.label, 2) for method in (cam, Refined(cam, "nwc")))
    assert_close(found.logits, expected.logits)
    assert torch.equal(found.classes, expected.classes)


@pytest.mark.parametrize("gamma", ["nl_quadratic", "sum", "t1b1", "none"])
@pytest.mark.parametrize(
    ("method", "more"),
    [("nl_ccam", {}), ("nl_ccam", {"hidden_channels": 8}), ("ci_cam", {"pool_size": 4})],
    ids=["nl_ccam", "widened", "ci_cam"],
)
@torch.no_grad()
def test_ccam_behind_a_combinational_method_is_its_own_map(method, more, gamma, batch):
    gammas = {"gamma": gamma, "gamma_m": 2, "gamma_r": 3, "gamma_s": 1.5}
    own = build(method, nl_positions=["conv4"], **gammas, **more)
    if method == "ci_cam":
        own.pool.maps.uniform_()
    refined = Refined(own, "ccam", **gammas)
    ranking = seeded((6, 5), dtype=torch.float64)
    for scores in (None, ranking):
        expected, found = (one.localize(batch.image, batch.label, 1, ranking=scores) for one in (own, refined))
        assert_close(found.localization_map, expected.localization_map)
        assert torch.equal(found.classes, expected.classes)


@torch.no_grad()
def test_ccam_without_combination_is_cam(batch):
    cam = build("cam")
    expected, found = (one.localize(batch.image, batch.label, 2) for one in (cam, Refined(cam, "ccam", gamma="none")))
    assert_close(found.localization_map, expected.localization_map)


def test_ccam_combines_the_maps_of_all_classes():
    weight, features = seeded((4, 4), dtype=torch.float64), seeded((2, 4, 2, 3), dtype=torch.float64, seed=1)
    ranking = torch.tensor([[0.1, 0.4, 0.3, 0.2], [4.0, 3, 2, 1]], dtype=torch.float64)
    seen = Seen((32, 48), {}, torch.tensor([[0], [3]]), ranking, ranking, head=head_of(weight, features))
    found = get_refinement("ccam")(STAGES, gamma="linear")(seen)
    assert found.shape == (2, 1, 2, 3)
    for n, order in enumerate(([1, 2, 3, 0], [0, 1, 2, 3])):
        maps = [torch.einsum("c,chw->hw", weight[k], features[n]) for k in order]
        combined = maps[0] + maps[1] / 3 - maps[2] / 3 - maps[3]
        expected = torch.tensor(min_max(combined.flatten().tolist()), dtype=torch.float64)
        assert_close(found[n, 0].flatten(), expected)
