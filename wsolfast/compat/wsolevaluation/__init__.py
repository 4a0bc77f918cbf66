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

try:
    from wsolfast import _numpy  # noqa: F401
except ImportError as error:
    raise ImportError(
        "wsolfast.compat.wsolevaluation runs on the compiled box engine, wsolfast._numpy, which is not there "
        "(installed with WSOLFAST_EXT=0, or without a compiler); install wsolfast again with a C++ compiler and "
        f"without WSOLFAST_EXT=0 ({error})"
    ) from error

from wsolfast.compat.wsolevaluation._command import main
from wsolfast.compat.wsolevaluation._evaluate import CAMComputer, evaluate_wsol
from wsolfast.compat.wsolevaluation._evaluators import (
    BoxEvaluator,
    LocalizationEvaluator,
    MaskEvaluator,
    get_mask,
    load_mask_image,
)
from wsolfast.compat.wsolevaluation._maps import (
    CamDataset,
    calculate_multiple_iou,
    check_box_convention,
    check_scoremap_validity,
    compute_bboxes_from_scoremaps,
    normalize_scoremap,
    resize_bbox,
    t2n,
)
from wsolfast.compat.wsolevaluation._metadata import (
    Metadata,
    configure_metadata,
    get_bounding_boxes,
    get_class_labels,
    get_image_ids,
    get_image_sizes,
    get_mask_paths,
)

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
