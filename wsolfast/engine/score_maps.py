"""The first pass of evaluation: the network runs once over every image; scores and score maps are kept."""

import hashlib
import json
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine import distributed
from wsolfast.engine.loading import load_batches
from wsolfast.engine.progress import Progress
from wsolfast.engine.run_folder import write_bytes
from wsolfast.methods import Method
from wsolfast.types import Batch


@dataclass(frozen=True)
class ScoreMaps:
    """What the network said of each image, in the order in which it was asked."""

    maps: Tensor  # float32 [n, h, w] in [0, 1]: the localization map of the true class, at its own resolution
    classes: Tensor  # int64 [n, k]: the most likely classes, the first one first
    scores: Tensor  # float32 [n, k]: their probabilities
    seconds: float  # that the pass took

    def save(self, file: Path, fingerprint: str) -> None:
        """Write as ``.npz``; ``fingerprint`` says what the maps depend on."""
        arrays = {
            "maps": self.maps.numpy(),
            "classes": self.classes.numpy(),
            "scores": self.scores.numpy(),
            "seconds": np.float64(self.seconds),
            "fingerprint": np.array(fingerprint),
        }
        write_bytes(file, lambda stream: np.savez(stream, **arrays))

    @classmethod
    def load(cls, file: Path, fingerprint: str) -> "ScoreMaps | None":
        """What :meth:`save` wrote; None if there is nothing, or something else."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                if str(arrays["fingerprint"]) != fingerprint:
                    return None
                tensors = [torch.from_numpy(arrays[name]) for name in ("maps", "classes", "scores")]
                return cls(*tensors, float(arrays["seconds"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def fingerprint(*parts: object) -> str:
    """A digest of values that JSON can say, and of files by their content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def _collate(samples: Sequence[data.Sample]) -> tuple[Batch, Tensor | None]:
    wide = None if samples[0].wide is None else torch.stack([sample.wide for sample in samples])
    return data.collate(samples), wide


def compute_score_maps(
    method: Method,
    dataset: data.Dataset,
    *,
    classifier: Method | None = None,
    indices: Sequence[int],
    batch_size: int,
    device: torch.device,
    crop: int | None = None,
    topk: int = 5,
    workers: int = 0,
    amp: str = "none",
    channels_last: bool = False,
    progress: Progress | None = None,
) -> ScoreMaps:
    """Classify and localise the images at ``indices``, each decoded once; several processes share the work.

    Args:
        classifier: ranks the classes by the second view, which the data set must deliver; the method itself if None.
        crop: side of the ten crops of the second view whose mean probabilities rank the classes; None ranks by the
            second view itself, or by the localisation forward if the data set delivers none.
        topk: how many classes are kept.
        amp: "bf16" runs the network in bfloat16; maps are kept as float32 all the same.
    """
    progress = progress or Progress(quiet=True)
    # Whole batches are dealt out, so that an image's neighbours, and its last digits, do not depend on the processes.
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    mine = range(distributed.rank(), len(batches), distributed.world_size())
    loader = load_batches(dataset, [batches[k] for k in mine], _collate, workers=workers, device=device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    method.eval().to(device)
    ranks = method if classifier is None else classifier.eval().to(device)
    found_by_batch: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    done, started = 0, time.monotonic()
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"),
        progress.task(f"{dataset.split}: score maps", sum(len(batches[k]) for k in mine)) as advance,
    ):
        for k, (batch, wide) in zip(mine, loader, strict=True):
            image = batch.image.to(device, memory_format=layout, non_blocking=True)
            probability, ranking = None, {}
            if wide is not None:
                wide = wide.to(device)
                crops = [wide] if crop is None else data.ten_crop(wide, crop).unbind(1)
                views = (ranks.classify(view.contiguous(memory_format=layout)).float().softmax(1) for view in crops)
                probability = sum(views) / len(crops)
                ranking = {"ranking": probability} if method.combines_classes else {}
            found = method.localize(image, label=batch.label.to(device), topk=0, **ranking)
            if probability is None:
                probability = found.logits.float().softmax(1)
            best = probability.topk(min(topk, probability.shape[1]), dim=1)
            parts = (found.localization_map[:, 0].float(), best.indices, best.values)
            found_by_batch[k] = tuple(part.cpu() for part in parts)
            done += len(batch.image_id)
            advance(len(batch.image_id), f"{done / (time.monotonic() - started):.1f} images/s")
    for share in distributed.from_all(found_by_batch):
        found_by_batch |= share
    maps, classes, scores = zip(*(found_by_batch[k] for k in range(len(batches))), strict=True)
    return ScoreMaps(torch.cat(maps), torch.cat(classes), torch.cat(scores), time.monotonic() - started)
