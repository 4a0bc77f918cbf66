"""A benchmark of four images on disk: metadata, masks and score maps in wsolevaluation's layout."""

from pathlib import Path

import cv2
import numpy as np

SIZES = {"a/0.jpg": (500, 375), "a/1.jpg": (224, 224), "b/2.jpg": (333, 500), "b/3.jpg": (100, 60)}
BOXES = {
    "a/0.jpg": [(50, 40, 449, 330), (0, 0, 120, 90)],
    "a/1.jpg": [(30, 30, 60, 50)],
    "b/2.jpg": [(0, 0, 332, 499)],
    "b/3.jpg": [(10, 5, 40, 50), (45, 5, 99, 59), (20, 20, 30, 30)],
}
MASKS = {
    "a/0.jpg": (["a/0_1.png", "a/0_2.png"], "a/0_ignore.png"),
    "a/1.jpg": (["a/1_1.png"], ""),
    "b/2.jpg": (["b/2_1.png"], "b/2_ignore.png"),
    "b/3.jpg": (["b/3_1.png", "b/3_2.png", "b/3_3.png"], "b/3_ignore.png"),
}


def smooth_map(rng, grid=6, side=224, dtype=np.float64) -> np.ndarray:
    """Return a min-max normalised map that varies slowly, as class activation maps do."""
    scores = cv2.resize(rng.random((grid, grid)), (side, side), interpolation=cv2.INTER_CUBIC)
    scores -= scores.min()
    return (scores / scores.max()).astype(dtype)


def write_boxes(root: Path) -> Path:
    """Write ``root/metadata/CUB/test``, whose files do not end their last line; return ``root/metadata``."""
    rows = {
        "image_ids_proxy": list(SIZES)[:2],
        "image_sizes": [f"{image_id},{w},{h}" for image_id, (w, h) in SIZES.items()],
        "localization": [f"{image_id},{','.join(map(str, box))}" for image_id in SIZES for box in BOXES[image_id]],
    }
    return _write(root, "CUB", rows)


def write_masks(root: Path, one_size: bool = False) -> Path:
    """Write ``root/metadata/OpenImages/test`` and ``root/dataset/OpenImages``; files of an image may differ in size."""
    rng = np.random.default_rng(2)
    rows = []
    for image_id, (masks, ignore) in MASKS.items():
        rows += [f"{image_id},{mask},{'' if k else ignore}" for k, mask in enumerate(masks)]
        width, height = SIZES[image_id]
        for mask in [*masks, *[ignore][: bool(ignore)]]:
            if not one_size:
                height, width = rng.integers(60, 400, 2)
            blocks = np.uint8(rng.random((height // 30 + 1, width // 30 + 1)) < 0.3).repeat(30, 0).repeat(30, 1)
            file = root / "dataset" / "OpenImages" / mask
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), blocks[:height, :width] * 255)
    return _write(root, "OpenImages", {"localization": rows})


def write_maps(root: Path, make=smooth_map) -> Path:
    """Write a score map ``root/scoremaps/<image id>.npy`` for each image; return their folder."""
    rng = np.random.default_rng(7)
    for image_id in SIZES:
        file = root / "scoremaps" / f"{image_id}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, make(rng))
    return root / "scoremaps"


def _write(root: Path, name: str, rows: dict[str, list[str]]) -> Path:
    folder = root / "metadata" / name / "test"
    folder.mkdir(parents=True)
    rows |= {
        "image_ids": list(SIZES),
        "class_labels": [f"{image_id},{k // 2}" for k, image_id in enumerate(SIZES)],
    }
    for file, lines in rows.items():
        (folder / f"{file}.txt").write_text("\n".join(lines))
    return root / "metadata"
