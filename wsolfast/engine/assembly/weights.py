"""Files of pretrained weights: where they are looked for, and what is taken where they are not there."""

import functools
import logging
from dataclasses import replace
from pathlib import Path

from wsolfast.recipe import BackboneSpec, Recipe

# Files that recipes of the package name, what torchvision has instead, and the layout that goes with it.
PUBLIC = {
    "mobilenet_v2_backbone_torchvision_folded.pt": ("MobileNet_V2_Weights.IMAGENET1K_V1", None),
    # Of TensorFlow, whose strided convolutions pad in another way.
    "mobilenet_v2_imagenet_tf2_ptq_dequant.pt": ("MobileNet_V2_Weights.IMAGENET1K_V1", "stride32"),
    "squeezenet1_1_imagenet.pt": ("SqueezeNet1_1_Weights.IMAGENET1K_V1", None),
}

_log = logging.getLogger(__name__)


def find_weights(weights: str, root: str | None) -> str:
    """Return the weights as the backbone is given them: a file is also looked for beside the data.

    Args:
        weights: ``stage.backbone.weights``.
        root: the folder of the data; a relative file that is not there is looked for in it and in ``../weights``.
    """
    if root is not None and Path(weights).suffix and not Path(weights).expanduser().is_file():
        for folder in (Path(root), Path(root) / ".." / "weights"):
            if (folder / weights).is_file():
                return str(folder / weights)
    return weights


def settle_weights(recipe: Recipe) -> Recipe:
    """Return the recipe with torchvision's weights where the file that it names is not there; a warning says so.

    Only files of :data:`PUBLIC` have such a substitute. Any other file that is missing stays an error of who loads it.
    """
    stages = tuple(replace(stage, backbone=_settled(stage.backbone, recipe.data.root)) for stage in recipe.stage)
    return replace(recipe, stage=stages)


def _settled(spec: BackboneSpec, root: str | None) -> BackboneSpec:
    if spec.weights not in PUBLIC or Path(find_weights(spec.weights, root)).is_file():
        return spec
    weights, layout = PUBLIC[spec.weights]
    places = "the current folder" if root is None else f"the current folder, {root} or {root}/../weights"
    _warn_once(f"{spec.weights} is not in {places}; {weights} are taken instead")
    return replace(spec, weights=weights, layout=layout or spec.layout)


@functools.cache
def _warn_once(message: str) -> None:
    """Print a warning, once for all stages, recipes and seeds of a list."""
    _log.warning(message)
