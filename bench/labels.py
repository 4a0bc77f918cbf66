"""SPOL's pseudo labels per image: with NumPy and OpenCV, one contour at a time, and by the op."""

import time
from collections.abc import Iterator

import torch

from wsolfast import ops
from wsolfast.bench.cases import labels_case
from wsolfast.bench.measure import milliseconds
from wsolfast.bench.rows import OURS
from wsolfast.testing.spol_labels import numpy_labels

IMAGES, SIZE = 8, (256, 256)
PRESETS = tuple(ops.GAUSSIAN_PRIORS)


def measure(preset: str, seconds: float = 2.0) -> Iterator[dict]:
    """Rows of both, after they agree on every label."""
    prior = ops.GAUSSIAN_PRIORS[preset]
    cams = labels_case(IMAGES, preset).make_inputs("cpu", torch.float32)[0]

    def peer():
        return torch.stack([torch.from_numpy(numpy_labels(cam, SIZE, prior)) for cam in cams.numpy()])

    def ours():
        return ops.gaussian_prior_labels(cams, SIZE, prior=prior)

    identity = {"case": f"labels of {preset} {SIZE[0]}x{SIZE[1]}", "task": "labels"}
    if different := int((ours() != peer()).sum()):
        total = IMAGES * SIZE[0] * SIZE[1]
        status = f"wrong: {different} of {total} labels are not those of numpy+opencv"
        yield identity | {"contender": OURS, "status": status}
        return
    for contender, call in ((OURS, ours), ("numpy+opencv", peer)):
        times = milliseconds([call], "cpu", seconds, time.thread_time)
        calls = times.pop("calls")
        each = {share: value / IMAGES for share, value in times.items()}
        yield identity | {"contender": contender, "status": "ok", "ms": each, "calls": calls}
