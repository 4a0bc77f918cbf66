"""The published way of training, to compare with: what the papers' programs compute, in kind, in plain PyTorch.

Written from what the papers describe; it shares the networks' layers with the library and nothing that comes after.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast.methods import Method
from wsolfast.methods.eil import EIL
from wsolfast.types import Batch

Loss = Callable[[Method, Batch], Tensor]


def spa_loss(method: Method, batch: Batch) -> Tensor:
    """Cross-entropy and the restricted activation loss, one PyTorch call after the other."""
    class_maps = method.head.class_maps(last_stage(method, batch.image))
    options = method.ram_options
    # The same function of the maps as the op's reference, differentiated by autograd.
    probability = class_maps.float().softmax(1)
    spread = probability.var(1) if options["statistic"] == "var" else probability.std(1)
    if options["normalization"] == "minmax":
        low, high = spread.amin((1, 2), keepdim=True), spread.amax((1, 2), keepdim=True)
        spread = (spread - low) / (high - low + 1e-15)
    background = (spread < options["tau"]).float()
    object_ = (spread > options["tau"] + options["sigma"]).float()
    rows = torch.arange(len(batch.label), device=batch.label.device)
    score = class_maps[rows, batch.label].float().sigmoid()
    restricted = (score * background + (1 - score) * object_).mean()
    return functional.cross_entropy(class_maps.mean((2, 3)), batch.label) + method.ram_alpha * restricted


def ci_cam_loss(method: Method, batch: Batch) -> Tensor:
    """Class maps of all classes, enhanced features by a convolution of K maps of which one is not zero, and the pool
    updated through K maps per image."""
    features = last_stage(method, batch.image)
    images, (height, width) = len(batch.label), features.shape[2:]
    weight = method.classifier.weight[:, :, None, None]
    up_maps = functional.conv2d(features, weight)
    up = method.classifier(features.mean((2, 3)))
    predicted = up.argmax(1)
    rows = torch.arange(images, device=predicted.device)
    pool = method.pool.maps
    context = torch.zeros(images, len(pool), height, width, device=pool.device)
    context[rows, predicted] = pool[predicted]
    enhanced = features + features * method.enhance(context)
    down = method.classifier(enhanced.mean((2, 3)))
    with torch.no_grad():
        right = (predicted == batch.label).float()[:, None, None]
        seen = torch.zeros(images, len(pool), height, width, device=pool.device)
        seen[rows, predicted] = up_maps[rows, predicted].float() * right
        grown = pool + method.pool.rate * standardized(seen.sum(0), method.pool.eps)
        pool.copy_(standardized(grown, method.pool.eps))
    up_weight = method.up_loss_weight
    return up_weight * functional.cross_entropy(up, batch.label) + functional.cross_entropy(down, batch.label)


def spol_seg_loss(method: Method, batch: Batch) -> Tensor:
    """Binary cross-entropy, pixel weights as tensors of their own."""
    labels = batch.pseudo_mask
    logits = network_logits(method, batch.image).float()
    resized = functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=True)
    score = resized[:, 0].sigmoid().clamp(1e-7, 1 - 1e-7)
    truth, weight = (labels == 1).float(), (labels != 255).float()
    return -(weight * (truth * score.log() + (1 - truth) * (1 - score).log())).mean()


def standardized(maps: Tensor, eps: float) -> Tensor:
    """Zero mean, unit variance over the positions of each map, by way of a batch norm over the classes."""
    return functional.batch_norm(maps[None], None, None, training=True, eps=eps)[0]


def last_stage(method: Method, image: Tensor) -> Tensor:
    features = method.backbone(image)[method.backbone.stages[-1].name]
    return method.hidden(features) if hasattr(method, "hidden") else features


def network_logits(method: Method, image: Tensor) -> Tensor:
    """Return the network's outputs for a batch: logits [N, K]; without classes a map [N, 1, h, w] or shares [N, 4].

    Those of a network whose upper layers run again for other features come one after the other, here for the same ones.
    """
    if isinstance(method, EIL):
        for branch in method.branches:
            branch.eval()
        features, last = method.backbone(image), method.last_stage
        again = [method.backbone.extract_from(stage, features[stage]) for stage in method.positions]
        return method.head.logits(torch.cat([found.get(last, features[last]) for found in (features, *again)]))
    if method.classifies:
        return method.classify(image)
    if method.gives_boxes:
        return method.regressor(method.backbone(image)[method.last_stage])
    fused = method.fusion(method.backbone(image)).fused
    return method.head(functional.dropout(fused, method.dropout, method.training))


def label_maker(method: Method) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    """SPOL's pseudo labels of one image with NumPy and OpenCV, as the tests' truth has them."""
    from wsolfast.testing.spol_labels import numpy_labels

    prior = method.prior
    return lambda cam, size: torch.from_numpy(numpy_labels(cam.float().numpy(), size, prior))


# By stage; others have no step of their own beyond the network's cross-entropy.
LOSSES: dict[str, Loss] = {"spa": spa_loss, "ci_cam": ci_cam_loss, "spol.seg": spol_seg_loss}
