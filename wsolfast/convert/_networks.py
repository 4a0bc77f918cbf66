"""Parts of networks that several code bases share, as tables of module paths."""

from collections.abc import Mapping

# Convolutions of torchvision's VGG16, by their index in ``features``.
VGG16_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
# The layer of ``features`` after which a non-local block may stand, by our name of the stage that ends there.
_VGG16_STAGES = {"conv2": 9, "conv3": 16, "conv4": 23, "conv5": 29}

INCEPTION_V3_BLOCKS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
)
# What torchvision's network has behind Mixed_6e, where the papers stop.
INCEPTION_V3_REST = ("AuxLogits", "Mixed_7a", "Mixed_7b", "Mixed_7c", "fc")


def non_local_block(stage: str, path: str) -> Mapping[str, str]:
    """Return the names of the block that NL-CCAM and its followers insert after ``stage`` and keep at ``path``."""
    names = {"query": "query_conv", "key": "key_conv", "value": "value_conv", "mix": "mix_conv", "norm": "bn"}
    return {f"backbone.non_local_{stage}.{ours}": f"{path}.{theirs}" for ours, theirs in names.items()}


def non_local_vgg16(path: str, stages: tuple[str, ...], widened: bool = False) -> Mapping[str, str]:
    """Return the names of VGG16 as one sequence at ``path``, in which the blocks count as layers.

    Args:
        stages: where there is a block.
        widened: two more convolutions follow.
    """
    ends = [_VGG16_STAGES[stage] for stage in stages]

    def shifted(index: int) -> int:
        return index + sum(end < index for end in ends)

    table = {f"backbone.features.{index}": f"{path}.{shifted(index)}" for index in VGG16_CONVS}
    for stage, end in zip(stages, ends, strict=True):
        table |= non_local_block(stage, f"{path}.{shifted(end) + 1}")
    if widened:
        first = shifted(30)
        table |= {"hidden.0": f"{path}.{first}", "hidden.2": f"{path}.{first + 2}"}
    return table


def inception_v3(path: str = "") -> Mapping[str, str]:
    """Return the names of InceptionV3 up to Mixed_6e, which are torchvision's."""
    return {f"backbone.{block}": f"{path}{block}" for block in INCEPTION_V3_BLOCKS}
