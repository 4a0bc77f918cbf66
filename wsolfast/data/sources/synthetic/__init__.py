"""``synthetic``: animals rendered from a seed, with the two problems that WSOL papers fight.

Every class is a species of one of three families (bird, fish, beetle). Species of a family share their large body,
which takes on a little of the class's colour (``body_cue``), and differ in a small patterned head: a classifier needs
the head only, so its maps cover a part of the object (*partial activation*). Every class also has a habitat, the
background it stands on with probability ``cooccurrence``: the higher, the more the background tells the class
(*entangled context*). Boxes and masks are exact.

The same seed gives the same bytes everywhere: random numbers are counter-based, and pixels come from IEEE additions,
multiplications, divisions and square roots of float32 alone, element by element (no BLAS, no libm).
"""

from pathlib import Path

import numpy as np
import torch

from wsolfast.data._source import SPLITS, Annotation, Source
from wsolfast.data._spec import SourceSpec
from wsolfast.data.hierarchies import Hierarchy
from wsolfast.data.images.random_draws import byte_draws, unit_draws
from wsolfast.data.sources.synthetic._draws import Draws, Noise
from wsolfast.data.sources.synthetic._scenes import Scenery, render
from wsolfast.data.sources.synthetic._species import HUES, PATTERNS, class_name, family_of

LAYOUT = "nothing: the images are rendered"

_PARAMETERS, _NOISE = 1, 2  # random streams; 0 is the augmentation's
_CACHE_BYTES = 256 << 20


def open_source(
    root: Path | None,
    split: str,
    *,
    num_classes: int = 8,
    size: int = 128,
    num_train: int = 640,
    num_val: int = 80,
    num_test: int = 160,
    cooccurrence: float = 0.25,
    body_cue: float = 0.4,
    smallest: float = 0.45,
    largest: float = 0.85,
    world: int = 0,
) -> "SyntheticSource":
    """Open a rendered split.

    Args:
        root: not used; nothing is read.
        split: which images.
        num_classes: 2 to 32.
        size: side of the square images.
        num_train: number of images of ``train_weaksup``.
        num_val: number of images of ``train_fullsup``.
        num_test: number of images of ``test``.
        cooccurrence: probability that an animal stands in the habitat of its class; otherwise in any of them.
        body_cue: how much of its class's colour a body takes on; 0 leaves the class to the head.
        smallest: smallest longer side of an animal's box, as a share of the image's side.
        largest: largest longer side, at most 0.98.
        world: seed of the images (the seed of :func:`wsolfast.data.open_dataset` drives the augmentation).
    """
    if not 2 <= num_classes <= len(HUES) * len(PATTERNS):
        raise ValueError(f"num_classes: expected 2 to {len(HUES) * len(PATTERNS)}, got {num_classes}")
    if size < 32:
        raise ValueError(f"size: expected at least 32 px, got {size}")
    for name, share in (("cooccurrence", cooccurrence), ("body_cue", body_cue)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a number from 0 to 1, got {share}")
    if not 0.27 <= smallest <= largest <= 0.98:
        raise ValueError(f"smallest, largest: expected 0.27 <= smallest <= largest <= 0.98, got {smallest}, {largest}")
    count = {"train_weaksup": num_train, "train_fullsup": num_val, "test": num_test}[split]
    if count < 1:
        raise ValueError(f"split {split}: expected at least one image, got {count}")
    return SyntheticSource(split, count, num_classes, Scenery(size, cooccurrence, body_cue, (smallest, largest)), world)


class SyntheticSource(Source):
    """Rendered images; each process keeps what it has rendered."""

    has_masks = True

    def __init__(self, split: str, count: int, num_classes: int, scenery: Scenery, world: int):
        self.labels = np.arange(count, dtype=np.int64) % num_classes
        self.class_names = [class_name(k) for k in range(num_classes)]
        families = {class_name(k): (family_of(k),) for k in range(num_classes)}
        self.hierarchy = Hierarchy("rendered images", ("family",), families)
        self.image_ids = [f"{split}/{i:06d}" for i in range(count)]
        self._split = SPLITS.index(split)
        self._scenery = scenery
        self._world = world
        self._rendered: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def read(self, index: int) -> np.ndarray:
        return self._render(index)[0].copy()

    def annotation(self, index: int) -> Annotation:
        box = torch.tensor([_tight_box(self._render(index)[1])], dtype=torch.float64)
        return Annotation((self._scenery.size, self._scenery.size), box)

    def mask(self, index: int) -> np.ndarray:
        return self._render(index)[1].copy()

    def scene(self, index: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        """Render pixels and xyxy box anew, without keeping them."""
        pixels, mask = self._draw(index)
        return pixels, _tight_box(mask)

    def _render(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self._rendered.get(index)
        if scene is None:
            scene = self._draw(index)
            if (len(self._rendered) + 1) * 4 * self._scenery.size**2 > _CACHE_BYTES:
                self._rendered.clear()
            self._rendered[index] = scene
        return scene

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        position, size = (self._split, index), self._scenery.size
        draws = Draws(unit_draws(self._world, _PARAMETERS, position, 64))
        noise = Noise(byte_draws(self._world, _NOISE, position, 3 * 4096 + size**2))
        return render(int(self.labels[index]), self._scenery, draws, noise)


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the half-open xyxy box of the set pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


SPEC = SourceSpec(open_source, layout=LAYOUT, title="rendered images", required=SPLITS, rendered=True)
