"""Bridges from other people's networks to the ops and metrics: features, gradients and class maps of their layers.

Score maps that another library has made need nothing from here: ``ops`` and ``metrics`` take any Tensor[N, h, w].
"""

from wsolfast.interop._features import class_maps, features_of, tokens_to_map
from wsolfast.interop._gradients import backprop, grad_cam, gradients_of
from wsolfast.interop._similarity import sem

__all__ = ["backprop", "class_maps", "features_of", "grad_cam", "gradients_of", "sem", "tokens_to_map"]
