"""The evaluators: counters that are filled image by image, and the numbers that they give."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wsolfast import _numpy
from wsolfast.compat.wsolevaluation._maps import check_box_convention, check_scoremap_validity, resize_bbox
from wsolfast.compat.wsolevaluation._metadata import get_bounding_boxes, get_image_ids, get_image_sizes, get_mask_paths

_RESIZE_LENGTH = 224


class LocalizationEvaluator:
    """Base class of the evaluators.

    Args:
        metadata: the split's files, see :func:`configure_metadata`.
        dataset_name: CUB, ILSVRC or OpenImages.
        split: train, val or test.
        cam_threshold_list: rising cut-offs of score maps, in [0, 1).
        iou_threshold_list: overlaps in percent.
        mask_root: where mask paths start.
        multi_contour_eval: every contour gives a box, not only the largest.
    """

    def __init__(
        self,
        metadata: Mapping[str, str],
        dataset_name: str,
        split: str,
        cam_threshold_list: Sequence[float],
        iou_threshold_list: Sequence[int],
        mask_root: str,
        multi_contour_eval: bool,
    ):
        self.metadata = metadata
        self.dataset_name = dataset_name
        self.split = split
        self.cam_threshold_list = cam_threshold_list
        self.iou_threshold_list = iou_threshold_list
        self.mask_root = mask_root
        self.multi_contour_eval = multi_contour_eval

    def accumulate(self, scoremap: np.ndarray, image_id: str) -> None:
        """Count one image.

        Args:
            scoremap: [224, 224], values in [0, 1].
            image_id: one of the metadata's.

        Raises:
            TypeError, ValueError: see :func:`check_scoremap_validity`.
            KeyError: if the metadata does not know the image.
        """
        self._add(self._count(scoremap, image_id))

    def compute(self) -> list[float] | float:
        """Return the numbers of everything counted so far."""
        raise NotImplementedError

    def _count(self, scoremap: np.ndarray, image_id: str) -> np.ndarray:
        """Return the counts of one image; it touches no counter, so threads may call it."""
        raise NotImplementedError

    def _add(self, counted: np.ndarray) -> None:
        raise NotImplementedError


class BoxEvaluator(LocalizationEvaluator):
    """MaxBoxAcc (``multi_contour_eval=False``) and MaxBoxAccV2.

    Args:
        **kwargs: see :class:`LocalizationEvaluator`.

    Attributes:
        cnt: images counted.
        num_correct: for each entry of ``iou_threshold_list`` the images that are right at each score threshold.
        gt_bboxes: true boxes in the 224 x 224 frame.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.image_ids = get_image_ids(self.metadata)
        self.resize_length = _RESIZE_LENGTH
        self.cnt = 0
        self.num_correct = {level: np.zeros(len(self.cam_threshold_list)) for level in self.iou_threshold_list}
        self.original_bboxes = get_bounding_boxes(self.metadata)
        self.image_sizes = get_image_sizes(self.metadata)
        square = (self.resize_length, self.resize_length)
        self.gt_bboxes = {
            image_id: [resize_bbox(box, self.image_sizes[image_id], square) for box in self.original_bboxes[image_id]]
            for image_id in self.image_ids
        }

    def compute(self) -> list[float]:
        """Return the percentage of images at the best threshold, for each entry of ``iou_threshold_list``."""
        return [(self.num_correct[level] * 100.0 / float(self.cnt)).max() for level in self.iou_threshold_list]

    def _count(self, scoremap: np.ndarray, image_id: str) -> np.ndarray:
        check_scoremap_validity(scoremap)
        truths = np.array(self.gt_bboxes[image_id])
        check_box_convention(truths, "x0y0x1y1")
        return _numpy.box_sweep_hits(
            scoremap[None],
            np.asarray(self.cam_threshold_list, dtype=np.float64),
            truths,
            np.array([0, len(truths)]),
            np.array([level / 100 for level in self.iou_threshold_list]),
            _numpy.Rule(selection="all" if self.multi_contour_eval else "contour_area"),
        )[0]

    def _add(self, counted: np.ndarray) -> None:
        for k, level in enumerate(self.iou_threshold_list):
            self.num_correct[level] += counted[:, k]
        self.cnt += 1


def load_mask_image(file_path: str, resize_size: tuple[int, int]) -> np.ndarray:
    """Return the mask file ``file_path`` as grey levels, float32, at (width, height) ``resize_size``.

    Pixel i of the result is pixel floor(i * source / target): OpenCV's "nearest", not the nearest centre.
    """
    from PIL import Image

    with Image.open(file_path) as image:
        mask = np.asarray(image.convert("L"), dtype=np.float32)
    columns, rows = (
        np.minimum(np.floor(np.arange(target) * (1.0 / (target / source))).astype(np.int64), source - 1)
        for target, source in zip(resize_size, mask.shape[::-1], strict=True)
    )
    return mask[rows[:, None], columns]


def get_mask(mask_root: str, mask_paths: Sequence[str], ignore_path: str) -> np.ndarray:
    """Return all instances of an image in one uint8 [224, 224]: 1 object, 255 ignored, 0 the rest.

    Args:
        mask_root: where the paths start.
        mask_paths: one per instance.
        ignore_path: of the pixels that do not count; may be empty.
    """
    square = (_RESIZE_LENGTH, _RESIZE_LENGTH)
    instances = [load_mask_image(os.path.join(mask_root, path), square) > 0.5 for path in mask_paths]
    mask = np.logical_or.reduce(np.stack(instances)).astype(np.uint8)
    if ignore_path:
        ignored = load_mask_image(os.path.join(mask_root, ignore_path), square) > 0.5
        mask[ignored & (mask == 0)] = 255
    return mask


class MaskEvaluator(LocalizationEvaluator):
    """PxAP: pixel average precision over all pixels of the data set.

    Args:
        **kwargs: see :class:`LocalizationEvaluator`.

    Attributes:
        gt_true_score_hist: scores of object pixels between ``threshold_list_right_edge``, whose bins are
            [0, s), [s, 2s), ... [1 - s, 1), [1, 2), [2, 3].
        gt_false_score_hist: the same of background pixels.

    Raises:
        ValueError: if the data set is not OpenImages.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        if self.dataset_name != "OpenImages":
            raise ValueError(f"masks are evaluated on OpenImages only, not on {self.dataset_name!r}")
        self.mask_paths, self.ignore_paths = get_mask_paths(self.metadata)
        self.num_bins = len(self.cam_threshold_list) + 2
        self.threshold_list_right_edge = np.append(self.cam_threshold_list, [1.0, 2.0, 3.0])
        self.gt_true_score_hist = np.zeros(self.num_bins)
        self.gt_false_score_hist = np.zeros(self.num_bins)

    def compute(self) -> float:
        """Return the area under the precision-recall curve in percent, and print it.

        Raises:
            RuntimeError: if no pixel was counted, or none of an object.
        """
        true_positives = self.gt_true_score_hist[::-1].cumsum()
        predicted = true_positives + self.gt_false_score_hist[::-1].cumsum()
        if true_positives[-1] <= 0:
            raise RuntimeError("PxAP: no object pixel was counted")
        recall_steps = np.diff(true_positives / true_positives[-1])
        with np.errstate(invalid="ignore"):
            precision = (true_positives / predicted)[1:]
        auc = (precision * recall_steps)[predicted[1:] != 0].sum() * 100
        print(f"Mask AUC on split {self.split}: {auc}")
        return auc

    def _count(self, scoremap: np.ndarray, image_id: str) -> np.ndarray:
        check_scoremap_validity(scoremap)
        mask = get_mask(self.mask_root, self.mask_paths[image_id], self.ignore_paths[image_id])
        if scoremap.shape != mask.shape:
            raise IndexError(f"score map of {image_id}: expected shape {mask.shape}, got {scoremap.shape}")
        return _numpy.pixel_histogram(scoremap, mask, self.threshold_list_right_edge)

    def _add(self, counted: np.ndarray) -> None:
        self.gt_false_score_hist += counted[0]
        self.gt_true_score_hist += counted[1]


EVALUATORS = {"OpenImages": MaskEvaluator, "CUB": BoxEvaluator, "ILSVRC": BoxEvaluator}
