"""The published way of evaluation, to compare with: what the papers' programs do, in kind.

One image at a time goes through the network, in float32; the maps of all classes are built; NumPy, OpenCV and SciPy go
on, threshold by threshold. Written from what the papers and their evaluations describe; it shares the networks' layers
with the library and nothing that comes after them.
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import data
from wsolfast.bench.published_training import last_stage, network_logits
from wsolfast.methods import Method
from wsolfast.metrics import Protocol
from wsolfast.metrics.frames import gt_in_frame
from wsolfast.reference import self_correlation_map as reference
from wsolfast.testing import published_boxes

# What SPA's released code adds to the range of a map.
CAM_EPS = 1e-10


class ImageByImage:
    """A published evaluation: one image at a time through the network in float32, then NumPy and OpenCV.

    Args:
        method: in evaluation mode.
        dataset: of images and boxes.
        protocol: of :data:`SCORERS`.
    """

    def __init__(self, method: Method, dataset: data.Dataset, protocol: Protocol):
        self.method, self.dataset, self.protocol = method, dataset, protocol
        self.maps, self.score = MAPS[type(method).__name__], SCORERS[protocol.name]

    @classmethod
    def knows(cls, method: Method, protocol: Protocol) -> bool:
        return type(method).__name__ in MAPS and protocol.name in SCORERS

    @torch.inference_mode()
    def hits(self, index: int) -> np.ndarray:
        """Return whether the box of the label's map is right, bool [T, I]; the others' boxes are found as well."""
        sample, note = self.dataset[index], self.dataset.annotations(index)
        truths = gt_in_frame([note.boxes], [note.size], self.protocol)[0].numpy()
        found = self.maps(self.method, sample.image[None], sample.label, note.size)
        hits = [self.score(score_map, note.size, truths, self.protocol) for score_map in found]
        return hits[0]


def cam_maps(method: Method, image: Tensor, label: int, size: tuple[int, int]) -> list[np.ndarray]:
    """The label's map, picked from those of all classes."""
    class_maps = method.head.class_maps(last_stage(method, image))[0].float().numpy()
    cam = np.maximum(class_maps[label], 0) if method.cam_relu else class_maps[label]
    return [(cam - cam.min()) / (cam.max() - cam.min())]


def spa_maps(method: Method, image: Tensor, label: int, size: tuple[int, int]) -> list[np.ndarray]:
    """The maps of the label and of the five best classes, each refined by itself on whole correlation matrices."""
    features = method.backbone(image)
    class_maps = method.head.class_maps(features[method.backbone.stages[-1].name])[0].relu()
    best = class_maps.mean((1, 2)).topk(min(5, len(class_maps))).indices.tolist()
    layers = [features[name] for name in method.refine.layers]
    sides, maps = class_maps.shape[1:], []
    for kind in (label, *best):
        cam = class_maps[kind].numpy()
        cam = (cam - cam.min()) / (cam.max() - cam.min() + CAM_EPS)
        whole = cv2.resize(cam, (image.shape[3], image.shape[2]), interpolation=cv2.INTER_LINEAR)
        coarse = torch.from_numpy(cv2.resize(whole, sides[::-1], interpolation=cv2.INTER_LINEAR))[None, None]
        refined = reference.self_correlation_map(layers, coarse, *method.refine.rule.codes(), "strict")
        maps.append(refined[0, 0].numpy())
    return maps


def ci_cam_maps(method: Method, image: Tensor, label: int, size: tuple[int, int]) -> list[np.ndarray]:
    """The maps of all classes on the enhanced features, added up by rank."""
    features = last_stage(method, image)
    predicted = method.classifier(features.mean((2, 3))).argmax(1)
    context = torch.zeros(1, len(method.pool.maps), *features.shape[2:])
    context[0, predicted] = method.pool.maps[predicted]
    enhanced = features + features * method.enhance(context)
    scores = method.classifier(enhanced.mean((2, 3)))[0]
    class_maps = functional.conv2d(enhanced, method.classifier.weight[:, :, None, None])[0].numpy()
    order = np.argsort(-scores.numpy(), kind="stable")
    combined = np.tensordot(method.combination.of_ranks(len(order)).numpy(), class_maps[order], 1)
    return [(combined - combined.min()) / (combined.max() - combined.min())]


def spol_maps(method: Method, image: Tensor, label: int, size: tuple[int, int]) -> list[np.ndarray]:
    """The probability of an object at every pixel."""
    logits = network_logits(method, image)
    whole = functional.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=True)
    return [whole[0, 0].sigmoid().numpy()]


def score_contours(score_map: np.ndarray, size: tuple[int, int], truths: np.ndarray, protocol: Protocol) -> np.ndarray:
    """wsolevaluation: an OpenCV call and overlaps for every threshold."""
    resized = cv2.resize(score_map.astype(np.float64), (protocol.input_size,) * 2, interpolation=cv2.INTER_CUBIC)
    resized = resized - resized.min()
    resized = resized / resized.max()
    found = np.concatenate(published_boxes.contour_boxes(resized, protocol.thresholds, every=False))
    return published_boxes.ious(found, truths).max(1)[:, None] >= np.array(protocol.iou_thresholds)


def score_union(score_map: np.ndarray, size: tuple[int, int], truths: np.ndarray, protocol: Protocol) -> np.ndarray:
    """SPA: one box around what is at or above a threshold, on the original image."""
    whole = cv2.resize(score_map, size, interpolation=cv2.INTER_LINEAR)
    boxes = np.array([published_boxes.union_box(whole >= threshold) for threshold in protocol.thresholds])
    return published_boxes.ious(boxes, truths).max(1)[:, None] > np.array(protocol.iou_thresholds)


def score_rectangles(
    score_map: np.ndarray, size: tuple[int, int], truths: np.ndarray, protocol: Protocol
) -> np.ndarray:
    """CI-CAM: two cuts, SciPy's components, the largest rectangle, scaled to the image and truncated."""
    side = protocol.input_size
    whole = cv2.resize(score_map, (side, side), interpolation=cv2.INTER_LINEAR)
    scale, boxes = np.tile(np.array(size, np.float32) / np.float32(side), 2), []
    for threshold in protocol.thresholds:
        cut = np.where(whole > threshold * whole.max(), whole, 0)
        box = published_boxes.largest_rectangle(cut > cut.mean())
        boxes.append(np.minimum((np.array(box, np.float32) * scale).astype(int), np.tile(size, 2)))
    return published_boxes.ious(np.array(boxes), truths).max(1)[:, None] >= np.array(protocol.iou_thresholds)


MAPS = {"CAM": cam_maps, "SPA": spa_maps, "CICAM": ci_cam_maps, "SPOLSeg": spol_maps}
SCORERS = {"wsolevaluation": score_contours, "spa": score_union, "cicam": score_rectangles}
