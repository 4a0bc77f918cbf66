from types import SimpleNamespace

import pytest
import torch
from torch import nn

from wsolfast.backbones import ClassifierHead
from wsolfast.methods._cam_head import CamHead
from wsolfast.testing import assert_close, seeded


def backbone(channels=6, classifier=None):
    net = nn.Module()
    net.stages = (SimpleNamespace(name="last", channels=channels, stride=16),)
    net.classifier = classifier
    return net


@pytest.mark.parametrize("kind", ["linear", "conv2", "conv3"])
def test_logits_are_the_means_of_the_class_maps(kind):
    head = CamHead(backbone(), 5, kind, hidden_channels=8)
    head.classifier.bias.data = seeded((5,))
    features = seeded((2, 6, 3, 4))
    assert_close(head.logits(features), head.class_maps(features).mean((2, 3)))


def test_localize_gives_the_label_first_then_the_most_likely_classes():
    head = CamHead(backbone(), 5)
    head.classifier.bias.data = seeded((5,))
    features = seeded((2, 6, 3, 4))
    label = torch.tensor([4, 0])
    logits, classes, maps = head.localize(features, label, topk=2)
    assert torch.equal(classes[:, 0], label)
    assert torch.equal(classes[:, 1:], logits.topk(2).indices)
    every_map = head.class_maps(features)
    for n in range(2):
        for m in range(3):
            assert_close(maps[n, m], every_map[n, classes[n, m]])


def test_topk_is_cut_to_the_number_of_classes():
    _, classes, _ = CamHead(backbone(), 3).localize(seeded((1, 6, 2, 2)), None, topk=5)
    assert classes.shape == (1, 3)


def test_pretrained_head_takes_the_classifier_of_the_weights():
    given = ClassifierHead(seeded((4, 6)), seeded((4,)), relu_maps=True)
    head = CamHead(backbone(classifier=given), 4, "pretrained")
    features = seeded((2, 6, 3, 3), seed=1)
    expected = torch.einsum("kc,nchw->nkhw", given.weight, features) + given.bias[:, None, None]
    assert_close(head.class_maps(features), expected)
    assert_close(head.logits(features), expected.relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "classifier", "message"),
    [
        ("pretrained", None, "these weights bring no classifier"),
        ("pretrained", ClassifierHead(torch.zeros(9, 6), torch.zeros(9)), "has 9 classes, not 4"),
    ],
)
def test_bad_head_is_named(kind, classifier, message):
    with pytest.raises(ValueError, match=message):
        CamHead(backbone(classifier=classifier), 4, kind)
