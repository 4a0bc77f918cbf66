"""SPOL's pseudo labels per image: with NumPy and OpenCV, one contour at a time, and by the op.

    python bench/labels.py [--json FILE]

Thread CPU time on one thread, after both agree on every label.
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import torch
from cases import labels_case
from measure import environment, milliseconds, write_json

from wsolfast import ops

# The tests' truth is the peer.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from oracles.spol_labels import numpy_labels

IMAGES, SIZE = 8, (256, 256)


def measure(preset: str, seconds: float = 2.0) -> dict:
    prior = ops.GAUSSIAN_PRIORS[preset]
    cams = labels_case(IMAGES, preset).make_inputs("cpu", torch.float32)[0]

    def peer():
        return [numpy_labels(cam, SIZE, prior) for cam in cams.numpy()]

    def ours():
        return ops.gaussian_prior_labels(cams, SIZE, prior=prior)

    assert torch.equal(ours(), torch.stack([torch.from_numpy(labels) for labels in peer()]))
    peer_ms, our_ms = (milliseconds([call], "cpu", seconds, time.thread_time) for call in (peer, ours))
    for times in (peer_ms, our_ms):
        times |= {share: value / IMAGES for share, value in times.items() if share != "calls"}
    return {
        "preset": preset,
        "size": list(SIZE),
        "numpy_opencv_ms": peer_ms,
        "wsolfast_ms": our_ms,
        "speed_up": peer_ms["p50"] / our_ms["p50"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write rows and machine there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = [measure(preset) for preset in ops.GAUSSIAN_PRIORS]
    for row in rows:
        print(
            f"{row['preset']}: NumPy and OpenCV {row['numpy_opencv_ms']['p50']:.2f} ms, "
            f"wsolfast {row['wsolfast_ms']['p50']:.3f} ms, {row['speed_up']:.1f}x"
        )
    if options.json:
        write_json(options.json, {"environment": environment("cpu", 1), "rows": rows})


if __name__ == "__main__":
    main()
