import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.methods.eil import ErasedBranch
from wsolfast.testing import assert_close, seeded

EIL = get_stage("eil")


def branch(threshold, images):
    made = ErasedBranch(threshold).train()
    made.images = images
    return made


def loop(features, threshold):
    """The erased features, position by position."""
    count, channels, height, width = features.shape
    result = torch.zeros_like(features)
    for n in range(count):
        attention = [[float(sum(features[n, :, y, x])) / channels for x in range(width)] for y in range(height)]
        peak = max(max(row) for row in attention)
        for y in range(height):
            for x in range(width):
                if attention[y][x] < threshold * peak:
                    result[n, :, y, x] = features[n, :, y, x]
    return result


def build(**options):
    torch.manual_seed(0)
    return EIL(backbones.build("small"), 5, **options).double()


def test_the_first_row_stays_of_the_example_by_hand():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [3.0, 2.0]]]])
    kept = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert torch.equal(branch(0.7, 1)(features), torch.cat([features, features * kept]))


@pytest.mark.parametrize("threshold", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 1)])
def test_erased_features_are_the_loop_over_positions(threshold, shape):
    features = seeded(shape, dtype=torch.float64).abs()
    whole, erased = branch(threshold, len(features))(features).split(len(features))
    assert whole.equal(features)
    assert_close(erased, loop(features, threshold))


def test_everything_is_erased_of_features_without_activation():
    assert not branch(0.7, 1)(torch.zeros(1, 2, 3, 3))[1].any()


def test_a_second_branch_erases_whole_images_only():
    features = seeded((2, 3, 4, 5)).abs()
    grown = branch(0.5, 2)(torch.cat([features, torch.full_like(features, 9)]))
    assert torch.equal(grown[4:], branch(0.5, 2)(features)[2:])


def test_nothing_is_erased_in_evaluation(batch):
    net = build().eval()
    plain = get_stage("cam")(backbones.build("small"), 5).double().eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net.classify(batch.image), plain.classify(batch.image))


@pytest.mark.parametrize("positions", [["conv4"], ["conv3", "conv4"]])
def test_losses_are_those_of_separate_passes(batch, state, positions):
    # Batch norms would see both branches together: they stand still here.
    net = build(positions=positions, loss_weight=0.5).train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    found = net.training_step(batch, state)
    plain = get_stage("cam")(backbones.build("small"), 5).double().eval()
    plain.load_state_dict(net.state_dict())
    features = plain.backbone(batch.image)
    erased = [
        plain.head.logits(plain.backbone.extract_from(stage, loop(features[stage].detach(), 0.7))["conv5"])
        for stage in positions
    ]
    parts = [functional.cross_entropy(logits, batch.label) for logits in erased]
    expected = functional.cross_entropy(plain.classify(batch.image), batch.label) + 0.5 * sum(parts) / len(parts)
    assert_close(found["loss"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"erase_threshold": 1.5}, r"eil: erase_threshold: expected a value in \[0, 1\], got 1.5"),
        ({"loss_weight": -1.0}, "eil: loss_weight: expected at least 0, got -1.0"),
        ({"positions": []}, "eil: positions: expected at least one stage"),
        ({"positions": ["conv9"]}, "no stage 'conv9'"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
