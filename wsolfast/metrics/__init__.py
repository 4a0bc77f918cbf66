"""Localisation metrics: protocols as data, pure functions, accumulators with integer state, baselines."""

from wsolfast.metrics.baselines import center_box, center_gaussian
from wsolfast.metrics.box_accuracy import BoxAccuracy
from wsolfast.metrics.error_split import ErrorSplit
from wsolfast.metrics.frames import is_constant
from wsolfast.metrics.functional import box_iou
from wsolfast.metrics.given_boxes import GivenBoxes
from wsolfast.metrics.pixel_accuracy import PixelAccuracy, mask_overlaps
from wsolfast.metrics.protocols import PROTOCOLS, Protocol, get_protocol

# One more whenever the same maps may give another number; results.json names it.
METRICS_VERSION = 3

__all__ = [
    "METRICS_VERSION",
    "PROTOCOLS",
    "BoxAccuracy",
    "ErrorSplit",
    "GivenBoxes",
    "PixelAccuracy",
    "Protocol",
    "box_iou",
    "center_box",
    "center_gaussian",
    "get_protocol",
    "is_constant",
    "mask_overlaps",
]
