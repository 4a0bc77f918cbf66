"""Small data sets on disk that are annotated with masks and with nothing else."""

from pathlib import Path

import numpy as np
from PIL import Image

from wsolfast import data

COUNTS = {"train_weaksup": 12, "train_fullsup": 6, "test": 10}
SHORT = {"train_weaksup": "train", "train_fullsup": "val", "test": "test"}


def rendered(split: str) -> data.Dataset:
    """Return images of two classes, 48 px, with exact masks."""
    counts = {"num_train": COUNTS["train_weaksup"], "num_val": COUNTS["train_fullsup"], "num_test": COUNTS["test"]}
    return data.open_dataset("synthetic", None, split, num_classes=2, size=48, **counts)


def write_folder(root: Path) -> Path:
    """Write a ``folder`` data set without a single box; the last test image has no mask either."""
    rows = ["image,class_id,class_name,split,mask"]
    for split, short in SHORT.items():
        shown = rendered(split)
        for k in range(len(shown)):
            name, mask = f"{short}/{k}.png", ""
            _save(root / name, shown[k].image.permute(1, 2, 0).numpy())
            if shown.has_masks and (split, k) != ("test", 9):
                mask = f"masks/{name}"
                _save(root / mask, shown.mask(k).numpy())
            label = int(shown.labels[k])
            rows.append(f"{name},{label},{shown.class_names[label]},{short},{mask}")
    (root / "annotations.csv").write_text("\n".join(rows))
    return root


def _save(file: Path, pixels: np.ndarray, **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)


def write_openimages(root: Path) -> Path:
    """Write the benchmark's layout: ``root`` with images, masks and ``metadata``.

    Masks are twice the size of their images. The object of every second image is cut into two files that overlap; the
    upper rows are ignored, the object's among them too. The last test image has masks that are empty.
    """
    for split, short in SHORT.items():
        shown, ids, labels, masks = rendered(split), [], [], []
        for k in range(len(shown)):
            label = int(shown.labels[k])
            stem = f"{short}/{'0bt_c3' if label else '0bt9lr'}/{k:016x}"
            ids.append(f"{stem}.jpg")
            labels.append(f"{stem}.jpg,{label}")
            _save(root / ids[-1], shown[k].image.permute(1, 2, 0).numpy(), quality=95)
            if split != "train_weaksup":
                objects = _instances(shown.mask(k).numpy(), 1 + k % 2)
                if (split, k) == ("test", COUNTS["test"] - 1):
                    objects = [0 * one for one in objects]
                files = [f"{stem}_m0bt_c3_{n:08x}.png" for n in range(len(objects))]
                ignored = 0 * objects[0]
                ignored[:30] = 255
                for file, one in zip([*files, f"{stem}_ignore.png"], [*objects, ignored], strict=True):
                    _save(root / file, one)
                masks += [f"{ids[-1]},{file},{f'{stem}_ignore.png' * (n == 0)}" for n, file in enumerate(files)]
        folder = root / "metadata" / short
        folder.mkdir(parents=True)
        for name, lines in (("image_ids", ids), ("class_labels", labels), ("localization", masks), ("image_sizes", [])):
            (folder / f"{name}.txt").write_text("\n".join(lines))
    return root


def _instances(mask: np.ndarray, count: int) -> list[np.ndarray]:
    """Return an object's mask, twice as large, black and white, in ``count`` parts that overlap."""
    large = ((mask == 1) * np.uint8(255)).repeat(2, 0).repeat(2, 1)
    columns = np.arange(large.shape[1])
    return [large] if count == 1 else [large * (columns < 60), large * (columns > 40)]
