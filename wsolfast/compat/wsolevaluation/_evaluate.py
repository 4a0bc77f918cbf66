"""The numbers of a data set: of a model's maps, or of maps on disk."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wsolfast import _numpy
from wsolfast._system import count_cores
from wsolfast.compat.wsolevaluation._evaluators import EVALUATORS
from wsolfast.compat.wsolevaluation._maps import CamDataset, normalize_scoremap, t2n
from wsolfast.compat.wsolevaluation._metadata import configure_metadata, get_image_ids

_CHUNK = 128


class CAMComputer:
    """Evaluation of a model: its score maps are computed, and those of val and test kept below ``log_folder``.

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
        self.evaluator = EVALUATORS[dataset_name](
            metadata=configure_metadata(metadata_root),
            dataset_name=dataset_name,
            split=split,
            cam_threshold_list=list(np.arange(0, 1, cam_curve_interval)),
            iou_threshold_list=iou_threshold_list,
            mask_root=mask_root,
            multi_contour_eval=multi_contour_eval,
        )

    def compute_and_evaluate_cams(self) -> list[float] | float:
        """Return the evaluator's numbers over all images of the loader."""
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
    """Evaluate the score maps of a split, ``<scoremap_root>/<image id>.npy``, on all cores.

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
    evaluator = EVALUATORS[dataset_name](
        metadata=metadata,
        dataset_name=dataset_name,
        split=split,
        cam_threshold_list=list(np.arange(0, 1, cam_curve_interval)),
        iou_threshold_list=iou_threshold_list,
        mask_root=os.path.join(mask_root, "OpenImages"),
        multi_contour_eval=multi_contour_eval,
    )
    maps = CamDataset(scoremap_root, get_image_ids(metadata))
    with ThreadPoolExecutor(count_cores()) as pool:
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
