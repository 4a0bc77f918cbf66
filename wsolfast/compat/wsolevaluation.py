"""Drop-in for the evaluator of WSOL's benchmark: ``wsolevaluation``'s names, numbers, errors and printed lines.

Source: Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020 (MaxBoxAcc, PxAP) and
TPAMI 2022 (MaxBoxAccV2). Every number is the original's, bit for bit. What differs: it runs on NumPy 2, takes float32
and float16 score maps besides float64, needs neither torch nor OpenCV, and reads an empty ignore path as "nothing is
ignored", where the original crashes.

From Python, ``from wsolfast.compat.wsolevaluation import BoxEvaluator`` instead of ``from evaluation import ...``.
From the shell, with the original's flags::

    python -m wsolfast.compat.wsolevaluation --scoremap_root train_log/scoremaps --dataset_name CUB --split test

or around a program that imports ``evaluation`` and stays as it is::

    python -m wsolfast.compat.wsolevaluation main.py --dataset_name CUB ...
"""

import argparse
import importlib
import os
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

try:
    from wsolfast import _numpy
except ImportError as error:
    raise ImportError(
        "wsolfast.compat.wsolevaluation runs on the compiled box engine, wsolfast._numpy, which is not there "
        "(installed with WSOLFAST_EXT=0, or without a compiler); install wsolfast again with a C++ compiler and "
        f"without WSOLFAST_EXT=0 ({error})"
    ) from error

__all__ = [
    "BoxEvaluator",
    "CAMComputer",
    "CamDataset",
    "LocalizationEvaluator",
    "MaskEvaluator",
    "Metadata",
    "calculate_multiple_iou",
    "check_box_convention",
    "check_scoremap_validity",
    "compute_bboxes_from_scoremaps",
    "configure_metadata",
    "evaluate_wsol",
    "get_bounding_boxes",
    "get_class_labels",
    "get_image_ids",
    "get_image_sizes",
    "get_mask",
    "get_mask_paths",
    "load_mask_image",
    "main",
    "normalize_scoremap",
    "resize_bbox",
    "t2n",
]

_RESIZE_LENGTH = 224
_FLOATS = (np.float64, np.float32, np.float16)
_CHUNK = 128


class Metadata(dict):
    """The files of one split by name, as items and as attributes."""

    def __getattr__(self, name: str) -> str:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"metadata has no file {name!r}; it has {', '.join(self)}") from None


def configure_metadata(metadata_root: str) -> Metadata:
    """Where the annotation files of a split are.

    Args:
        metadata_root: the split's folder, ``metadata/<data set>/<train, val or test>``.

    ``image_ids`` and ``image_ids_proxy`` hold an id per line, ``class_labels`` ``id,class``, ``image_sizes``
    ``id,width,height``, ``localization`` ``id,x0,y0,x1,y1`` (an image with several boxes has several lines) or
    ``id,mask file,ignore file`` (the ignore file on an image's first line only).
    """
    names = ("image_ids", "image_ids_proxy", "class_labels", "image_sizes", "localization")
    return Metadata({name: os.path.join(metadata_root, f"{name}.txt") for name in names})


def _rows(file: str) -> Iterator[list[str]]:
    with open(file, encoding="utf-8") as stream:
        for line in stream:
            yield line.strip("\n").split(",")


def get_image_ids(metadata: Mapping[str, str], proxy: bool = False) -> list[str]:
    """Image ids of ``metadata`` in the order of their file; with ``proxy`` those of the smaller training set."""
    with open(metadata["image_ids_proxy" if proxy else "image_ids"], encoding="utf-8") as stream:
        return [line.strip("\n") for line in stream]


def get_class_labels(metadata: Mapping[str, str]) -> dict[str, int]:
    """Class of each image of ``metadata``."""
    return {image_id: int(label) for image_id, label in _rows(metadata["class_labels"])}


def get_bounding_boxes(metadata: Mapping[str, str]) -> dict[str, list[tuple[int, int, int, int]]]:
    """True boxes (x0, y0, x1, y1) of each image of ``metadata``, pixels of the original image."""
    boxes: dict[str, list] = {}
    for image_id, x0, y0, x1, y1 in _rows(metadata["localization"]):
        boxes.setdefault(image_id, []).append((int(x0), int(y0), int(x1), int(y1)))
    return boxes


def get_mask_paths(metadata: Mapping[str, str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Mask files of each image of ``metadata``, one per instance, and its ignore file.

    Raises:
        AssertionError: if an ignore file stands on another than an image's first line.
    """
    masks: dict[str, list[str]] = {}
    ignored: dict[str, str] = {}
    for image_id, mask, ignore in _rows(metadata["localization"]):
        if image_id in masks:
            assert not ignore, f"{metadata['localization']}: {image_id} has a second ignore file, {ignore}"
            masks[image_id].append(mask)
        else:
            masks[image_id], ignored[image_id] = [mask], ignore
    return masks, ignored


def get_image_sizes(metadata: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """(width, height) of each image of ``metadata``."""
    return {image_id: (int(width), int(height)) for image_id, width, height in _rows(metadata["image_sizes"])}


def t2n(tensor: Any) -> np.ndarray:
    """A tensor of any device and floating type as a float64 array."""
    return tensor.detach().cpu().double().numpy()


def normalize_scoremap(cam: np.ndarray) -> np.ndarray:
    """The map ``cam``, scaled to [0, 1] in place; zeros where it is constant or holds a NaN."""
    if np.isnan(cam).any() or cam.min() == cam.max():
        return np.zeros_like(cam)
    cam -= cam.min()
    cam /= cam.max()
    return cam


def check_scoremap_validity(scoremap: Any) -> None:
    """Raises what is wrong with ``scoremap``, if anything.

    Raises:
        TypeError: if it is no array of floating point numbers.
        ValueError: if it is not 2-d, or holds a NaN or a value outside [0, 1].
    """
    if not isinstance(scoremap, np.ndarray):
        raise TypeError(f"score map: expected a numpy array, got {type(scoremap)}")
    if scoremap.dtype not in _FLOATS:
        raise TypeError(f"score map: expected float64, float32 or float16 values, got {scoremap.dtype}")
    if scoremap.ndim != 2:
        raise ValueError(f"score map: expected a 2-d array, got {scoremap.ndim} dimensions")
    if np.isnan(scoremap).any():
        raise ValueError("score map: holds a NaN")
    if (scoremap > 1).any() or (scoremap < 0).any():
        raise ValueError(f"score map: expected values in [0, 1], got {scoremap.min()} to {scoremap.max()}")


def check_box_convention(boxes: np.ndarray, convention: str) -> None:
    """Raises if boxes, an array [4] or [N, 4], cannot be of a convention.

    Raises:
        RuntimeError: if a coordinate, width or height is negative, or the shape is another one.
        ValueError: if ``convention`` is neither "x0y0x1y1" nor "xywh".
    """
    if (boxes < 0).any():
        raise RuntimeError("boxes: a coordinate is negative")
    if boxes.ndim == 1:
        boxes = boxes[None]
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise RuntimeError(f"boxes: expected an array [4] or [N, 4], got shape {list(boxes.shape)}")
    if convention not in ("x0y0x1y1", "xywh"):
        raise ValueError(f"boxes: expected convention 'x0y0x1y1' or 'xywh', got {convention!r}")
    if convention == "x0y0x1y1" and (boxes[:, 2:] < boxes[:, :2]).any():
        raise RuntimeError("boxes: x1 < x0 or y1 < y0, not of convention x0y0x1y1")


def resize_bbox(
    box: Iterable[int], image_size: tuple[int, int], resize_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box moved from an image to its resized version, coordinates truncated.

    Args:
        box: x0, y0, x1, y1.
        image_size: (width, height), as ``resize_size``.

    Raises:
        RuntimeError: if the box is not x0y0x1y1.
    """
    check_box_convention(np.array(box), "x0y0x1y1")
    x0, y0, x1, y1 = (
        int(corner * float(resized) / original)
        for corner, resized, original in zip(box, [*resize_size] * 2, [*image_size] * 2, strict=True)
    )
    return x0, y0, x1, y1


def calculate_multiple_iou(box_a: np.ndarray, box_b: np.ndarray) -> np.ndarray:
    """Overlap of every two boxes, both of which contain their last pixel.

    Args:
        box_a: [A, 4], x0y0x1y1.
        box_b: [B, 4].

    Returns:
        [A, B]: float64.

    Raises:
        RuntimeError: if a box is not x0y0x1y1.
    """
    check_box_convention(box_a, "x0y0x1y1")
    check_box_convention(box_b, "x0y0x1y1")
    a, b = box_a[:, None], box_b[None]
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    intersection = np.maximum(shared, 0).prod(-1)
    union = (a[..., 2:] - a[..., :2] + 1).prod(-1) + (b[..., 2:] - b[..., :2] + 1).prod(-1) - intersection
    return np.divide(intersection, union, out=np.zeros(union.shape), where=union > 0)


def compute_bboxes_from_scoremaps(
    scoremap: np.ndarray, scoremap_threshold_list: Sequence[float], multi_contour_eval: bool = False
) -> tuple[list[np.ndarray], list[int]]:
    """Boxes of a score map at each threshold: of the largest contour, or of every contour, those of holes included.

    Args:
        scoremap: [H, W], values in [0, 1].
        scoremap_threshold_list: shares of the maximum.
        multi_contour_eval: every contour gives a box.

    Returns:
        int64 [n_t, 4] per threshold, x0y0x1y1, in OpenCV's order of contours; and every n_t. Without foreground there
        is one box, 0, 0, 0, 0.

    Raises:
        TypeError, ValueError: see :func:`check_scoremap_validity`.
    """
    check_scoremap_validity(scoremap)
    thresholds = np.asarray(scoremap_threshold_list, dtype=np.float64)
    boxes, counts = _numpy.compute_bboxes(scoremap, thresholds, bool(multi_contour_eval))
    ends = np.cumsum(counts)
    return [boxes[end - count : end] for count, end in zip(counts, ends, strict=True)], counts.tolist()


class CamDataset:
    """Score maps on disk: item i is the map ``<scoremap_path>/<image id>.npy`` of ``image_ids[i]``, and that id."""

    def __init__(self, scoremap_path: str, image_ids: Sequence[str]):
        self.scoremap_path = scoremap_path
        self.image_ids = image_ids

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        image_id = self.image_ids[index]
        return np.load(os.path.join(self.scoremap_path, f"{image_id}.npy")), image_id

    def __len__(self) -> int:
        return len(self.image_ids)


class LocalizationEvaluator:
    """What the evaluators share.

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
        """The numbers of everything counted so far."""
        raise NotImplementedError

    def _count(self, scoremap: np.ndarray, image_id: str) -> np.ndarray:
        """What one image adds; touches no counter, so that threads may call it."""
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
        """Percent of images at the best threshold, for each entry of ``iou_threshold_list``."""
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
    """The mask file ``file_path`` as grey levels, float32, at (width, height) ``resize_size``.

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
    """All instances of an image in one uint8 [224, 224]: 1 object, 255 ignored and not object, 0 the rest.

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
        """Area under the precision-recall curve in percent, which is printed, too.

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


_EVALUATORS = {"OpenImages": MaskEvaluator, "CUB": BoxEvaluator, "ILSVRC": BoxEvaluator}


class CAMComputer:
    """Computes a model's score maps, keeps those of val and test below ``log_folder``, and evaluates them.

    Args:
        model: ``model(images, targets, return_cam=True)`` returns a map per image; used on the device it is on.
        loader: batches (images, targets, image ids).
        metadata_root: ``metadata/<data set>/<split>``.
        mask_root: where mask paths start.
        iou_threshold_list, dataset_name, split, multi_contour_eval: see :class:`LocalizationEvaluator`.
        cam_curve_interval: step between score thresholds.
        log_folder: maps go to ``<log_folder>/scoremaps/<image id>.npy``; None keeps none.
    """

    def __init__(
        self,
        model: Any,
        loader: Iterable,
        metadata_root: str,
        mask_root: str,
        iou_threshold_list: Sequence[int],
        dataset_name: str,
        split: str,
        multi_contour_eval: bool,
        cam_curve_interval: float = 0.001,
        log_folder: str | None = None,
    ):
        self.model = model
        self.model.eval()
        self.loader = loader
        self.split = split
        self.log_folder = log_folder
        self.evaluator = _EVALUATORS[dataset_name](
            metadata=configure_metadata(metadata_root),
            dataset_name=dataset_name,
            split=split,
            cam_threshold_list=list(np.arange(0, 1, cam_curve_interval)),
            iou_threshold_list=iou_threshold_list,
            mask_root=mask_root,
            multi_contour_eval=multi_contour_eval,
        )

    def compute_and_evaluate_cams(self) -> list[float] | float:
        """The evaluator's numbers over all images of the loader."""
        print("Computing and evaluating cams.")
        parameter = next(self.model.parameters(), None)
        for images, targets, image_ids in self.loader:
            images = images if parameter is None else images.to(parameter.device)
            cams = t2n(self.model(images, targets, return_cam=True))
            for cam, image_id in zip(cams, image_ids, strict=True):
                scoremap = normalize_scoremap(_numpy.resize(cam, tuple(images.shape[2:]), "cubic"))
                if self.split in ("val", "test") and self.log_folder is not None:
                    file = Path(self.log_folder, "scoremaps", f"{image_id}.npy")
                    file.parent.mkdir(parents=True, exist_ok=True)
                    np.save(file, scoremap)
                self.evaluator.accumulate(scoremap, image_id)
        return self.evaluator.compute()


def evaluate_wsol(
    scoremap_root: str,
    metadata_root: str,
    mask_root: str,
    dataset_name: str,
    split: str,
    multi_contour_eval: bool,
    multi_iou_eval: bool,
    iou_threshold_list: list[int],
    cam_curve_interval: float = 0.001,
) -> float:
    """Evaluates the score maps of a split, ``<scoremap_root>/<image id>.npy``, on all cores.

    Args:
        metadata_root: the folder that holds ``<data set>/<split>``.
        mask_root: the folder that holds ``OpenImages``.
        dataset_name, split, multi_contour_eval: see :class:`LocalizationEvaluator`.
        cam_curve_interval: step between score thresholds.
        multi_iou_eval: average over ``iou_threshold_list`` instead of taking its 50.

    Returns:
        MaxBoxAcc, MaxBoxAccV2 (both ``multi`` switches) or, on OpenImages, PxAP; in percent, printed, too.

    Raises:
        TypeError, ValueError: see :func:`check_scoremap_validity`.
    """
    print("Loading and evaluating cams.")
    metadata = configure_metadata(os.path.join(metadata_root, dataset_name, split))
    evaluator = _EVALUATORS[dataset_name](
        metadata=metadata,
        dataset_name=dataset_name,
        split=split,
        cam_threshold_list=list(np.arange(0, 1, cam_curve_interval)),
        iou_threshold_list=iou_threshold_list,
        mask_root=os.path.join(mask_root, "OpenImages"),
        multi_contour_eval=multi_contour_eval,
    )
    maps = CamDataset(scoremap_root, get_image_ids(metadata))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(maps), _CHUNK):
            part = range(start, min(start + _CHUNK, len(maps)))
            for counted in pool.map(lambda index: evaluator._count(*maps[index]), part):
                evaluator._add(counted)
    performance: Any = evaluator.compute()
    if multi_iou_eval or dataset_name == "OpenImages":
        performance = np.average(performance)
    else:
        performance = performance[iou_threshold_list.index(50)]
    print(f"localization: {performance}")
    return performance


def main(argv: list[str] | None = None) -> None:
    """The original's command line; or, if the first word is a file, that program with this module as ``evaluation``.

    Args:
        argv: the words; the process's own if None.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv and not argv[0].startswith("-"):
        _run_program(*argv)
    else:
        evaluate_wsol(**vars(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wsolfast.compat.wsolevaluation",
        description="Evaluate the score maps <scoremap_root>/<image id>.npy of a split.",
        epilog="With a program as its first argument, runs that instead: its `import evaluation` gets this module.",
    )
    parser.add_argument("--scoremap_root", default="train_log/scoremaps/", help="folder of the score maps")
    parser.add_argument("--metadata_root", default="metadata/", help="folder of <data set>/<split>/*.txt")
    parser.add_argument("--mask_root", default="dataset/", help="folder of OpenImages/<mask file>")
    parser.add_argument("--dataset_name", required=True, choices=_EVALUATORS)
    parser.add_argument("--split", required=True, help="val (train-fullsup) or test")
    parser.add_argument("--cam_curve_interval", type=float, default=0.01, help="step between score thresholds")
    for flag, text in (
        ("--multi_contour_eval", "boxes of all contours instead of the largest (MaxBoxAccV2)"),
        ("--multi_iou_eval", "average over all overlaps instead of taking 50 (MaxBoxAccV2)"),
    ):
        parser.add_argument(flag, type=_truth, nargs="?", const=True, default=False, help=text)
    parser.add_argument("--iou_threshold_list", nargs="+", type=int, default=[30, 50, 70], help="overlaps in percent")
    return parser


def _truth(word: str) -> bool:
    truths = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)
    if word.lower() not in truths:
        raise argparse.ArgumentTypeError(f"expected true or false, got {word!r}")
    return truths[word.lower()]


def _run_program(program: str, *arguments: str) -> None:
    """Runs a file as ``python program arguments`` does, but for the module it finds under ``evaluation``.

    The names that NumPy has dropped and programs of that time use (``np.float``) are put back for it.
    """
    if not os.path.isfile(program):
        _parser().error(f"{program}: no such file; flags start with --")
    # Not this very module, which runs as __main__ and is about to lose that name.
    sys.modules["evaluation"] = importlib.import_module("wsolfast.compat.wsolevaluation")
    for kind in (float, int, bool):
        if not hasattr(np, kind.__name__):
            setattr(np, kind.__name__, kind)
    sys.argv = [program, *arguments]
    # A program imports the modules beside it first, before what stands in the working directory.
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
