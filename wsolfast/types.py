"""The nouns that every room shares."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of training images. True boxes are not part of it: they never reach training."""

    image: Tensor  # uint8 [N, 3, H, W], RGB; backbones scale and normalise it
    label: Tensor  # int64 [N]
    image_id: tuple[str, ...]  # as the data set calls them
    pseudo_mask: Tensor | None = None  # [N, H, W]: what Method.mask_maker made of an earlier stage's maps
    # The part of an earlier stage's box that each view shows; it ends where it begins if that is nothing.
    pseudo_box: Tensor | None = None  # float64 [N, 4] xyxy, half-open, pixels of image

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch with its tensors on ``device``."""
        # Only CUDA keeps the order of what reads a copy that is still under way.
        at_once = torch.device(device).type == "cuda"
        names = ("image", "label", "pseudo_mask", "pseudo_box")
        there = {name: tensor for name in names if (tensor := getattr(self, name)) is not None}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=at_once) for name, tensor in there.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class TrainState:
    """The position of a step in the training of a stage."""

    epoch: int  # 0-based
    epochs: int  # of the stage
    step: int  # 0-based, over the whole stage
    steps: int  # of the whole stage
    seed: int = 0  # of what a method draws

    @property
    def progress(self) -> float:
        """Share of the stage that is done, in [0, 1)."""
        return self.step / max(1, self.steps)

    def generator(self) -> torch.Generator:
        """Return the random numbers of this step alone, on the CPU.

        A resumed run, every device and every process draw the same ones. Draw for the whole batch, and take what
        belongs to this process's images.
        """
        return torch.Generator().manual_seed(derive_seed(f"{self.seed}/{self.step}/0"))


def derive_seed(name: str) -> int:
    """Return a seed of 56 bits that follows from ``name`` alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


Features = Mapping[str, Tensor]
"""Stages of a backbone by name: Tensor[N, C, h, w] each."""


@dataclass(frozen=True)
class Localization:
    """A method's answer to a batch of images: a map or a box for each class, never both.

    Raises:
        ValueError: if there are both maps and boxes, or neither.
    """

    logits: Tensor | None  # [N, K]; None of a method that does not classify
    classes: Tensor  # int64 [N, M]: the label if one was given, then the top-k predictions; -1 if neither is known
    localization_map: Tensor | None = None  # [N, M, h, w] in [0, 1]; None of a method that gives boxes
    # Of the image that the network was given; neither rounded nor clipped to it.
    boxes: Tensor | None = None  # [N, M, 4] xyxy, half-open, pixels

    def __post_init__(self) -> None:
        if (self.localization_map is None) == (self.boxes is None):
            given = "neither" if self.boxes is None else "both"
            raise ValueError(f"Localization: expected localization_map or boxes, got {given}; give one of them")


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning-rate factor of the recipe."""

    name: str  # "backbone_weight", "backbone_bias", "head_weight", "head_bias"
    params: tuple[torch.nn.Parameter, ...]  # all of them trainable
