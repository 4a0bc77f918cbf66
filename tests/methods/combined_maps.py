"""The maps of NL-CCAM and CI-CAM, image by image: every class map, weighted by the rank of its class."""

import torch

from wsolfast.testing import assert_close


def assert_combined(found, combination, class_maps, label):
    """``found`` localises ``label`` and the best classes by ``class_maps`` [N, K, h, w], combined."""
    count = class_maps.shape[1]
    order = found.logits.argsort(dim=1, descending=True)
    topk = found.classes.shape[1] - 1
    assert torch.equal(found.classes, torch.cat((label[:, None], order[:, :topk]), dim=1))
    for n in range(len(class_maps)):
        if combination.gamma == "none":
            expected = class_maps[n, found.classes[n]]
        else:
            weights = combination.of_ranks(count)
            expected = sum(share * class_maps[n, k] for share, k in zip(weights, order[n], strict=True))
            expected = expected.expand(topk + 1, -1, -1)
        low, high = expected.amin((1, 2), keepdim=True), expected.amax((1, 2), keepdim=True)
        assert_close(found.localization_map[n], (expected - low) / (high - low))
