"""Checks of arguments that several ops share."""

from torch import Tensor


def check_classes(op: str, name: str, classes: Tensor, images: int) -> None:
    """Raise a ValueError unless ``classes`` holds an integer for each of ``images``."""
    if classes.is_floating_point() or classes.is_complex() or classes.shape != (images,):
        raise ValueError(
            f"{op}: expected integers of shape [{images}] for {name}, got {classes.dtype} {list(classes.shape)}"
        )
