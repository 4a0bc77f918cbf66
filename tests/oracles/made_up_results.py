"""Records of evaluations that never took place, for tests of what reads them."""

from wsolfast.engine.run.results import EvalResults, ImageRow, ThresholdSweep, Throughput


def made_up_results(**changes):
    """Results of one image, right at every threshold, with ``changes``."""
    values = {
        "num_images": 1,
        "metrics": {"gt_known_loc": 100.0},
        "oracle_threshold": {"gt_known_loc": 0.5},
        "cam_threshold": 0.5,
        "cam_threshold_source": "oracle",
        "baselines": {},
        "split": "test",
        "recipe": "demo/cam",
        "method": "cam",
        "localizer": "localizer",
        "classifier": "localizer",
        "post": "none",
        "variant": "",
        "protocol": "wsolevaluation",
        "thresholds": ThresholdSweep(1000, 0.0, 0.999),
        "metrics_version": 1,
        "limit": None,
        "ten_crop": False,
        "decoder": "pil",
        "amp": "none",
        "device": "cpu",
        "images_per_second": 1.0,
        "throughput": Throughput(1, {"network": 1.0}, {"network": 1.0, "wait": 0.0, "all": 1.0}, "network"),
        "seconds_metrics": 1.0,
        "seconds": 1.0,
        "evaluated": "2026-01-01T10:00:00+00:00",
        "environment": {},
    }
    return EvalResults(**values | changes)


def made_up_row(index, **changes):
    """A row of an image of class 0 that is seen as such, without a box, with ``changes``."""
    values = {
        "index": index,
        "map": index,
        "image_id": f"i{index}",
        "label": 0,
        "predicted": 0,
        "topk": [0],
        "score": 0.0,
        "size": [8, 8],
        "gt_boxes": [],
        "box": None,
        "iou": 0.0,
        "error": None,
    }
    return ImageRow(**values | changes)
