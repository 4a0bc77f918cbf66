"""Small data sets on disk that are annotated with masks and with nothing else."""

from pathlib import Path

from PIL import Image

from wsolfast import data

COUNTS = {"train_weaksup": 12, "train_fullsup": 6, "test": 10}
SHORT = {"train_weaksup": "train", "train_fullsup": "val", "test": "test"}


def rendered(split: str) -> data.Dataset:
    """Images of two classes, 48 px, with exact masks."""
    counts = {"num_train": COUNTS["train_weaksup"], "num_val": COUNTS["train_fullsup"], "num_test": COUNTS["test"]}
    return data.open_dataset("synthetic", None, split, num_classes=2, size=48, **counts)


def write_folder(root: Path) -> Path:
    """A ``folder`` data set without a single box; the last test image has no mask either."""
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


def _save(file: Path, pixels) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
