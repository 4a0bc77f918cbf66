"""Public ops. Each is one file: the function, its checks, its fake kernel, its gradient, one ``define_op`` call.

Where a tensor is expected, a NumPy array or a list of numbers is taken, too, and a number of NumPy where a number is.
What does not say what it means is a TypeError that names the op, the argument and what was expected.
"""

from wsolfast.ops._registry import backends, extension_status, references
from wsolfast.ops.box_rule import BoxRule
from wsolfast.ops.box_sweep_hits import box_sweep_hits
from wsolfast.ops.class_head_pool import class_head_pool
from wsolfast.ops.co_supervised_loss import co_supervised_loss
from wsolfast.ops.confidence_mask import confidence_mask
from wsolfast.ops.confident_segmentation_loss import confident_segmentation_loss
from wsolfast.ops.context_pool_update import context_pool_update
from wsolfast.ops.correlation_rule import CorrelationRule
from wsolfast.ops.gaussian_prior_labels import GAUSSIAN_PRIORS, GaussianPrior, gaussian_prior_labels
from wsolfast.ops.min_max_normalize import min_max_normalize
from wsolfast.ops.multiplicative_fusion import multiplicative_fusion
from wsolfast.ops.non_local_attention import non_local_attention
from wsolfast.ops.normalize_score_map import normalize_score_map
from wsolfast.ops.pixel_histogram import pixel_histogram
from wsolfast.ops.resize_roundtrip import resize_roundtrip
from wsolfast.ops.restricted_activation_loss import restricted_activation_loss
from wsolfast.ops.score_map_boxes import ScoreMapBoxes, score_map_boxes
from wsolfast.ops.self_correlation_map import self_correlation_map

__all__ = [
    "GAUSSIAN_PRIORS",
    "BoxRule",
    "CorrelationRule",
    "GaussianPrior",
    "ScoreMapBoxes",
    "backends",
    "box_sweep_hits",
    "class_head_pool",
    "co_supervised_loss",
    "confidence_mask",
    "confident_segmentation_loss",
    "context_pool_update",
    "extension_status",
    "gaussian_prior_labels",
    "min_max_normalize",
    "multiplicative_fusion",
    "non_local_attention",
    "normalize_score_map",
    "pixel_histogram",
    "references",
    "resize_roundtrip",
    "restricted_activation_loss",
    "score_map_boxes",
    "self_correlation_map",
]
