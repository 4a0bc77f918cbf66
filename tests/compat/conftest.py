import numpy as np
import pytest

pytest.importorskip("wsolfast._numpy", reason="the box engine is not compiled")

SIZES = {"a/0.jpg": (500, 375), "a/1.jpg": (224, 224), "b/2.jpg": (333, 500), "b/3.jpg": (100, 60)}
BOXES = {
    "a/0.jpg": [(50, 40, 449, 330), (0, 0, 120, 90)],
    "a/1.jpg": [(30, 30, 60, 50)],
    "b/2.jpg": [(0, 0, 332, 499)],
    "b/3.jpg": [(10, 5, 40, 50), (45, 5, 99, 59), (20, 20, 30, 30)],
}


def smooth_map(rng, grid=6, side=224, dtype=np.float64):
    """A min-max normalised map that varies slowly, as class activation maps do."""
    cv2 = pytest.importorskip("cv2")
    scores = cv2.resize(rng.random((grid, grid)), (side, side), interpolation=cv2.INTER_CUBIC)
    scores -= scores.min()
    return (scores / scores.max()).astype(dtype)


@pytest.fixture
def metadata_root(tmp_path):
    """``metadata/CUB/test`` of four images, written by hand; the last line of no file ends."""
    folder = tmp_path / "metadata" / "CUB" / "test"
    folder.mkdir(parents=True)
    rows = {
        "image_ids": list(SIZES),
        "image_ids_proxy": list(SIZES)[:2],
        "class_labels": [f"{image_id},{k // 2}" for k, image_id in enumerate(SIZES)],
        "image_sizes": [f"{image_id},{w},{h}" for image_id, (w, h) in SIZES.items()],
        "localization": [f"{image_id},{','.join(map(str, box))}" for image_id in SIZES for box in BOXES[image_id]],
    }
    for name, lines in rows.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return tmp_path / "metadata"


@pytest.fixture
def scoremap_root(tmp_path):
    """A smooth score map for each of the four images, as the original writes them."""
    rng = np.random.default_rng(7)
    for image_id in SIZES:
        file = tmp_path / "scoremaps" / f"{image_id}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, smooth_map(rng))
    return tmp_path / "scoremaps"
