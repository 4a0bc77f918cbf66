"""A data set is a source (which images, labels and boxes there are) seen through a view (how they become tensors)."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from wsolfast._nearest import nearest
from wsolfast.data._classes import renumber
from wsolfast.data._source import Annotation, Source, boxes_outside, check_size, mask_differs
from wsolfast.data.errors import DataError
from wsolfast.data.images.cache import ImageCache
from wsolfast.data.images.decode import PlainJpeg
from wsolfast.data.images.random_draws import raw_draws
from wsolfast.data.images.transforms import Placement, Size, View
from wsolfast.types import Batch

_AUGMENTATION_STREAM = 0
_IMAGES_AT_ONCE = 256
# How often a crop is drawn again that shows nothing of the box that it is aimed at: as PSOL was released.
_AIMS = 30


@dataclass(frozen=True)
class Sample:
    """One image as the loader delivers it."""

    image: Tensor  # uint8 [3, H, W], RGB
    label: int  # class of the image
    image_id: str  # as the data set calls it
    index: int  # position in the data set
    placement: Placement  # where ``image`` lies in the original
    wide: Tensor | None = None  # uint8 [3, H', W']: the same image in the second view
    pseudo_box: Tensor | None = None  # float64 [4] xyxy, pixels of image: what it shows of the box that is aimed at


class Dataset(torch.utils.data.Dataset):
    """A split of a data set. ``dataset[i]`` is a :class:`Sample`.

    Augmentation depends on ``(seed, epoch, index)`` only: worker count, batch order and resuming change nothing.

    Args:
        source: has the images.
        split: its name; the boxes of ``train_weaksup`` are never given.
        view: how an image becomes a tensor.
        seed: of the augmentation.
        wide: a second view of every image.
        skip_bad: decode every image once and leave the unreadable ones out.
        cache: opens what keeps the images that a view warps; without one they are decoded every time.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        view: View,
        *,
        seed: int = 0,
        wide: View | None = None,
        skip_bad: bool = False,
        cache: Callable[[View], ImageCache] | None = None,
    ):
        self.split = split
        self.view = view
        self.class_names = tuple(source.class_names)
        self.hierarchy = source.hierarchy
        self.skipped: tuple[str, ...] = ()  # one message per image that skip_bad left out
        self._source = source
        self._wide_view = wide
        # One for each size that the views want the whole image at.
        self._warps = {view.size: view for view in (view, wide) if view is not None}
        self._caches = {} if cache is None else {size: cache(view) for size, view in self._warps.items()}
        self._held: list[tuple[Tensor, tuple[int, int]]] = []
        self._aim: Callable[[int, tuple[int, int]], Tensor] | None = None
        self._seed = seed
        # In shared memory, so that set_epoch reaches workers that outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._kept = self._readable() if skip_bad else range(len(source.image_ids))
        self.image_ids = tuple(source.image_ids[i] for i in self._kept)
        self.labels = torch.from_numpy(np.asarray(source.labels, np.int64)[np.asarray(self._kept, np.int64)])
        if not self.image_ids:
            raise DataError(f"split {split!r} has no readable image; {len(self.skipped)} were skipped")

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        position = self._kept[index]
        name = self._source.describe(position)
        if self._held:
            whole, size = self._held[index]
            wholes = {self.view.size: whole}
        else:
            wholes, size = self._wholes(position, name)
        whole = wholes[self.view.size]
        box = None if self._aim is None else self._aim(index, size)
        image, placement = self.view.cut(whole, size, self._draws(position, size, whole, box), name)
        shown = None if box is None else placement.boxes_shown(box)
        other = self._wide_view
        wide = None if other is None else other.cut(wholes[other.size], size, [], name)[0]
        return Sample(image, int(self.labels[index]), self.image_ids[index], index, placement, wide, shown)

    def plain_jpeg(self, index: int) -> PlainJpeg | None:
        """Return the file of an image for another decoder, whose pixels :meth:`show` takes; None if it is not for one.

        Args:
            index: position in the data set; no cache is looked at.

        Raises:
            DataError: if the file is missing, or the image has not the size that its annotation says.
        """
        position = self._kept[index]
        jpeg = self._source.plain_jpeg(position)
        if jpeg is not None:
            check_size(self._source, position, (jpeg.width, jpeg.height))
            for view in self._warps.values():
                view.check_length((jpeg.width, jpeg.height), self._source.describe(position))
        return jpeg

    def show(self, images: Tensor) -> dict[str, Tensor]:
        """Make the views of decoded images of one size where they lie, as a :class:`Sample` names them.

        Args:
            images (Tensor[N, 3, H, W]): uint8.

        Returns:
            ``image`` and, where there is a second view, ``wide``: uint8 tensors [N, 3, h, w].

        Raises:
            DataError: if the images are smaller than the crop.
        """
        views = {"image": self.view, "wide": self._wide_view}
        return {name: view.show(images) for name, view in views.items() if view is not None}

    def aim_at(self, box_of: Callable[[int, tuple[int, int]], Tensor]) -> None:
        """Let samples carry a box of their image, and draw a crop again that shows nothing of it.

        After 30 such crops the central one is taken, whatever it shows. A crop that shows a part of the box is the one
        that would be drawn without it.

        Args:
            box_of: of an image's position in the data set and its (width, height): Tensor[4] xyxy in its pixels. It
                goes to loader processes.
        """
        self._aim = box_of

    def _draws(self, position: int, size: tuple[int, int], whole: Tensor, box: Tensor | None) -> list[int]:
        each, whole_size = self.view.draws, (whole.shape[2], whole.shape[1])

        def drawn(times: int) -> list[int]:
            at = (int(self._epoch), position)
            return raw_draws(self._seed, _AUGMENTATION_STREAM, at, times * each)

        draws = drawn(1)
        if box is None or not each or self.view.shows(box, whole_size, size, draws):
            return draws
        draws = drawn(1 + _AIMS)
        again = (draws[k * each : (k + 1) * each] for k in range(1, 1 + _AIMS))
        return next((one for one in again if self.view.shows(box, whole_size, size, one)), [])

    def hold(
        self, device: torch.device | str, limit: int, advance: Callable[[int], object] = lambda steps: None
    ) -> bool:
        """Decode every image once and keep it, resized, in the memory of ``device``, where its views are then cut.

        What is left of a view is cropping and mirroring, so its bits are those of decoding anew.

        Args:
            device: where images lie from now on.
            limit: bytes that they may take; they are kept all or none.
            advance: called with 1 for every image.

        Returns:
            bool: True if they fit.

        Raises:
            ValueError: if views are resampled (``crop_area``) or distorted (``rand_augment``), or there are two of each
                image.
            DataError: an image cannot be read.
        """
        if self.view.crop_area is not None or self.view.rand_augment is not None or self._wide_view is not None:
            raise ValueError(
                "images are held for views that crop and mirror, not for crop_area, rand_augment or ten_crop"
            )

        def whole(index: int) -> tuple[Tensor, tuple[int, int]]:
            position = self._kept[index]
            wholes, size = self._wholes(position, self._source.describe(position))
            return wholes[self.view.size], size

        held, left = [], limit
        with ThreadPoolExecutor() as pool:
            # A few at a time, so that no more than the limit is ever decoded.
            for start in range(0, len(self), _IMAGES_AT_ONCE):
                for image, size in pool.map(whole, range(start, min(start + _IMAGES_AT_ONCE, len(self)))):
                    left -= image.numel()
                    if left < 0:
                        return False
                    held.append((image.to(device), size))
                    advance(1)
        self._held = held
        return True

    @property
    def is_held(self) -> bool:
        """True if :meth:`hold` keeps the images, so that samples come from its device."""
        return bool(self._held)

    def _wholes(self, position: int, name: str) -> tuple[dict[Size, Tensor], tuple[int, int]]:
        """Return the resized image at every size that the views want, and (width, height) of the original."""
        state = self._source.state(position) if self._caches else 0
        found = {size: cache.get(position, state, name) for size, cache in self._caches.items()}
        kept = {size: pair for size, pair in found.items() if pair is not None}
        if kept and len(kept) == len(found):
            image_size = next(iter(kept.values()))[1]
            check_size(self._source, position, image_size)
            return {size: whole for size, (whole, _) in kept.items()}, image_size
        pixels = self._source.read(position)
        image_size = (pixels.shape[1], pixels.shape[0])
        check_size(self._source, position, image_size)
        wholes = {size: view.warp(pixels, name) for size, view in self._warps.items()}
        for size, cache in self._caches.items():
            if size not in kept:
                cache.put(position, state, wholes[size], image_size)
        return wholes, image_size

    def relabel(self, class_names: Sequence[str]) -> None:
        """Number the classes as ``class_names`` does, by name.

        Args:
            class_names: those of the run, or of another split. They may be more than this split has.

        Raises:
            DataError: if an image shows a class that is not among them; the labels then stay as they were.
        """
        places = renumber(self.class_names, class_names, self._source.class_ids)
        labels = torch.from_numpy(places)[self.labels]
        unknown = (labels < 0).nonzero().flatten().tolist()
        if unknown:
            names = sorted({self.class_names[int(self.labels[index])] for index in unknown})
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            hint = nearest(names[0], class_names, "classes are matched by name")
            first = next(index for index in unknown if self.class_names[int(self.labels[index])] == names[0])
            raise DataError(
                f"{self._source.describe(self._kept[first])}: split {self.split!r} has the class {names[0]!r}{others}, "
                f"which is not one of the {len(class_names)} classes of the run; {hint}"
            )
        self.labels, self.class_names = labels, tuple(class_names)

    def number_by_id(self, limit: int) -> None:
        """Number the classes as the annotations do, for a network whose outputs are numbered so.

        Args:
            limit: number of outputs.

        Raises:
            DataError: if a class has a larger id than the last output.
        """
        ids = self._source.class_ids
        if ids is None:
            return
        largest = max(ids, default=-1)
        if largest >= limit:
            name = self.class_names[list(ids).index(largest)]
            raise DataError(
                f"split {self.split!r} has the class id {largest} ({name!r}), and the network has {limit} classes, "
                "which are numbered from 0"
            )
        names = dict(zip(ids, self.class_names, strict=True))
        self.labels = torch.tensor(ids, dtype=torch.int64)[self.labels]
        self.class_names = tuple(names.get(label, f"class {label}") for label in range(largest + 1))

    def describe_cache(self) -> list[str]:
        """Say how full each cache of decoded images is; nothing without one."""
        return [cache.describe() for cache in self._caches.values()]

    def set_epoch(self, epoch: int) -> None:
        """Move the augmentation to ``epoch`` (0-based)."""
        self._epoch.fill_(epoch)

    @property
    def has_masks(self) -> bool:
        """True if :meth:`mask` gives masks for this split."""
        return self.split != "train_weaksup" and self._source.has_masks

    def annotations(self, index: int) -> Annotation:
        """Return size, boxes and mask file of image ``index``.

        Raises:
            RuntimeError: for ``train_weaksup``, whose boxes never reach training.
            DataError: if a box lies outside the image.
        """
        position = self._annotated(index)
        found = self._source.annotation(position)
        outside = next(boxes_outside(found), None)
        if outside is not None:
            raise DataError(f"{self._source.describe(position)}: {outside}")
        return found

    def mask(self, index: int) -> Tensor | None:
        """Mask of image ``index``, uint8 [H, W]: 0 background, 1 object, 255 ignore; None if it has none.

        Of the size of the original image, but for data sets whose masks have a size of their own.

        Raises:
            RuntimeError: for ``train_weaksup``, whose masks never reach training.
            DataError: if it is missing or broken, or has another size than the image.
        """
        position = self._annotated(index)
        mask = self._source.mask(position)
        if mask is None:
            return None
        size = self._source.told_size(position) or self._source.header_size(position)
        if self._source.masks_fit and size and mask.shape != size[::-1]:
            raise DataError(f"{self._source.describe(position)}: {mask_differs(mask, size)}")
        return torch.from_numpy(mask)

    def _annotated(self, index: int) -> int:
        if self.split == "train_weaksup":
            raise RuntimeError("train_weaksup has image labels only: boxes and masks are withheld from training")
        return self._kept[range(len(self))[index]]

    def _readable(self) -> list[int]:
        def complaint(index: int) -> str | None:
            try:
                height, width, _ = self._source.read(index).shape
                for view in self._warps.values():
                    view.check_length((width, height), self._source.describe(index))
            except DataError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            complaints = list(pool.map(complaint, range(len(self._source.image_ids))))
        self.skipped = tuple(message for message in complaints if message is not None)
        return [index for index, message in enumerate(complaints) if message is None]


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a batch of samples of one size.

    Returns:
        Batch: images, labels and ids in the order of ``samples``.

    Raises:
        DataError: if the images differ in size.
    """
    odd = next((sample for sample in samples if sample.image.shape != samples[0].image.shape), None)
    if odd is not None:
        sizes = [list(sample.image.shape[1:]) for sample in (samples[0], odd)]
        names = (samples[0].image_id, odd.image_id)
        raise DataError(f"{names[0]} is {sizes[0]} and {names[1]} is {sizes[1]}: set resize or crop to batch them")
    boxes = [sample.pseudo_box for sample in samples if sample.pseudo_box is not None]
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        label=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        image_id=tuple(sample.image_id for sample in samples),
        pseudo_box=torch.stack(boxes) if boxes else None,
    )
