"""Results as records: of evaluations, of ``localize`` and of ``reproduce``, as they lie on disk in JSON.

The fields are the keys. Numbers of metrics are mappings from the metric's name to percent.
"""

import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from wsolfast.engine.run.errors import MissingError


@dataclass(frozen=True)
class Record:
    """A dataclass that is written as a JSON object. Fields whose default is None are left out while they are None."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as :mod:`json` takes it."""
        named = ((field, getattr(self, field.name)) for field in fields(self))
        return {_key(f.name): _plain(value) for f, value in named if value is not None or f.default is not None}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Make a record of ``value``, which :meth:`to_json` returned; keys that the record does not have are ignored.

        Returns:
            An instance of this class.

        Raises:
            ValueError: if a key is missing or of another type.
        """
        return _built(cls, value, cls.__name__)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the record in ``file``.

        Returns:
            An instance of this class.

        Raises:
            MissingError: if the file is not there or damaged.
        """
        try:
            return cls.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise MissingError(f"{file}: no such file; evaluate to write it") from None
        except (OSError, ValueError) as error:
            raise MissingError(f"{file}: cannot be read ({error}); evaluate again to rewrite it") from None


@dataclass(frozen=True)
class ThresholdSweep(Record):
    """Thresholds of a protocol without their list, which ``curves.json`` has."""

    count: int  # of thresholds
    first: float  # threshold
    last: float  # threshold


@dataclass(frozen=True)
class Throughput(Record):
    """Speed of an evaluation and of its stages, :data:`wsolfast.engine.evaluation.stopwatch.STAGES`."""

    images: int  # that were evaluated
    images_per_second: dict[str, float]  # by stage, as if nothing else took time
    seconds: dict[str, float]  # by stage, and what was waited for images ("wait") and passed together ("all")
    slowest: str | None  # stage


@dataclass(frozen=True)
class PixelMetrics(Record):
    """Scores against object masks, in percent, and their best thresholds."""

    px_ap: float  # area under the precision-recall curve of all pixels
    p_iou: float  # IoU of all pixels together
    peak_iou: float  # of all pixels together, over 256 levels
    peak_iou_per_image: float  # mean over the images, over 256 levels
    images: int  # that have a mask
    p_iou_threshold: float  # in [0, 1]
    peak_threshold: int  # of 0..255
    peak_t_per_image: int  # of 0..255


@dataclass(frozen=True)
class ErrorShares(Record):
    """Percent of the images by the error of their Top-1 box, see :func:`wsolfast.metrics.functional.error_kinds`."""

    misclassified: float  # the class is wrong
    correct: float  # right class, and the box overlaps by half
    multi_instance: float  # one box around several objects
    part: float  # the box covers a part of the object
    more: float  # the box covers the object and much besides
    other: float  # the box misses in another way


@dataclass(frozen=True, kw_only=True)
class Measurement(Record):
    """Numbers of a split of images. All of ``metrics`` are at their oracle thresholds, where maps are cut."""

    num_images: int  # that were measured
    metrics: dict[str, float]  # percent by name
    oracle_threshold: dict[str, float]  # metric -> best threshold on these images
    cam_threshold: float | None  # of per_image.json, and of whoever shows boxes; None of a method that gives boxes
    cam_threshold_source: str  # "transferred", "oracle" or, where nothing is cut, "none"
    baselines: dict[str, dict[str, float]]  # "center_box", "center_gaussian" -> metrics
    images_without_box: int | None = None  # left out of the metrics of boxes
    images_without_mask: int | None = None  # left out of the metrics of masks
    maps_constant: int | None = None  # have one value everywhere: what is measured of them is rounding noise
    transferred_thresholds: dict[str, float] | None = None  # metric -> best threshold on train_fullsup
    transferred_threshold: float | None = None  # the one of iou50
    transferred: dict[str, float] | None = None  # metrics at these
    pixel: PixelMetrics | None = None  # where there are masks

    @property
    def gives_boxes(self) -> bool:
        """True if the method gives boxes and no maps: nothing was cut."""
        return self.cam_threshold is None

    @property
    def measured(self) -> dict[str, float]:
        """``metrics`` and, where there are masks, the pixel metrics."""
        return self.metrics | ({} if self.pixel is None else asdict(self.pixel))


@dataclass(frozen=True, kw_only=True)
class EvalResults(Measurement):
    """``results.json`` of an evaluated run."""

    split: str  # of the data set
    recipe: str  # its name
    method: str  # its name
    localizer: str  # name of the stage
    classifier: str  # name of the stage, or path of the run
    post: str  # refinement of the maps, or "none"
    variant: str  # of the recipe, or empty
    protocol: str  # its name
    thresholds: ThresholdSweep | None  # of the protocol; None of a method that gives boxes
    metrics_version: int  # of the arithmetic behind the numbers
    limit: int | None  # images that were asked for; None for all
    ten_crop: bool  # classes are ranked by ten crops
    decoder: str  # library that decoded JPEG
    amp: str  # precision of the networks
    device: str  # where the networks ran
    images_per_second: float  # of all that an evaluation does
    throughput: Throughput  # by stage
    seconds_metrics: float  # after the last image
    seconds: float  # in all
    evaluated: str  # date and time
    environment: dict[str, Any]  # machine, code and packages
    error_split: ErrorShares | None = None  # where boxes are measured
    chosen_by_boxes: str | None = None  # what chose the weights by looking at boxes; None if nothing did
    lossy_decoder: str | None = None  # the decoder, if its pixels are not Pillow's; None if they are

    @property
    def marks(self) -> list[str]:
        """Marks that stand behind the name of these results wherever it is named; most have none."""
        marks = {"chosen by boxes": self.chosen_by_boxes, "lossy decoder": self.lossy_decoder}
        return [words for words, what in marks.items() if what]

    @property
    def measured(self) -> dict[str, float]:
        """``metrics``, and the pixel metrics and shares of errors where there are any."""
        return super().measured | ({} if self.error_split is None else asdict(self.error_split))


@dataclass(frozen=True)
class ProtocolCurves(Record):
    """Accuracies of a protocol over its thresholds, in percent."""

    thresholds: list[float]
    gt_known_loc: list[float]  # by threshold
    top1_loc: list[float]  # by threshold
    top5_loc: list[float]  # by threshold


@dataclass(frozen=True)
class Curves(Record):
    """``curves.json`` of an evaluated run: MaxBoxAcc and its parts over wsolevaluation's thresholds, in percent."""

    thresholds: list[float]
    iou30: list[float]  # hits at an IoU of 0.3
    iou50: list[float]  # hits at an IoU of 0.5
    iou70: list[float]  # hits at an IoU of 0.7
    max_box_acc: list[float]  # MaxBoxAcc's own rule
    protocol: ProtocolCurves  # the protocol's own thresholds and rule


@dataclass(frozen=True)
class ImageRow(Record):
    """One image in ``per_image.json`` of an evaluated run. Boxes are half-open xyxy, pixels of the original image."""

    index: int  # in the data set
    map: int  # position among the images that were asked for, and of its score map or box
    image_id: str  # as the data set calls it
    label: int  # true class
    predicted: int  # most likely class
    topk: list[int]  # most likely classes, the first one first
    score: float  # probability of the predicted class
    size: list[int]  # (width, height)
    gt_boxes: list[list[float]]  # true boxes
    box: list[float] | None  # None where masks are measured
    iou: float  # best overlap with a true box, or with the mask
    error: str | None  # field of ErrorShares


@dataclass(frozen=True)
class ImageTable(Record):
    """``per_image.json`` of an evaluated run."""

    class_names: list[str]  # by label
    images: list[ImageRow]  # those that were measured


@dataclass(frozen=True)
class MapRow(Record):
    """One image in ``per_image.json`` of score maps on disk; boxes are those of :class:`ImageRow`."""

    index: int  # in the metadata
    image_id: str
    label: int
    iou: float  # as the protocol compares boxes, or pIoU masks
    size: list[int] | None = None  # (width, height); None where masks are measured, as are the boxes
    gt_boxes: list[list[float]] | None = None
    box: list[float] | None = None


@dataclass(frozen=True)
class Comparison(Record):
    """A comparison of score maps' boxes or pixels with another implementation, that found no difference."""

    with_: str  # the other implementation and its version
    images: int  # that were compared
    thresholds: int  # at which they were


@dataclass(frozen=True, kw_only=True)
class MapResults(Record):
    """``results.json`` of score maps on disk."""

    num_images: int  # that were measured
    metrics: dict[str, float]  # percent by name
    oracle_threshold: dict[str, float]  # metric -> best threshold on these images
    maps_not_finite: int  # which count as empty
    dataset: str  # its name
    split: str  # of the metadata
    scoremaps: str  # folder of the score maps
    images_per_second: float | None  # None if all were counted before
    seconds: float  # in all
    evaluated: str  # date and time
    environment: dict[str, Any]  # machine, code and packages
    compared: Comparison | None = None  # where a comparison was asked for
    # Of boxes.
    protocol: str | None = None  # its name
    cam_threshold: float | None = None  # of per_image.json
    transferred_thresholds: dict[str, float] | None = None  # metric -> best threshold of the other split
    transferred: dict[str, float] | None = None  # metrics at these
    baselines: dict[str, dict[str, float]] | None = None  # "center_box" -> metrics
    images_without_box: int | None = None  # left out
    maps_constant: int | None = None  # have one value everywhere, as in Measurement


@dataclass(frozen=True)
class LocalizedClass(Record):
    """A class in an image, and the place of its object."""

    class_id: int  # its number
    class_name: str | None  # None if the run knows no names
    score: float  # probability of the class
    boxes: list[list[float]]  # half-open xyxy, pixels of the upright image; none where the score map is constant
    localized: bool  # False without a box, and where a box covers the picture


@dataclass(frozen=True)
class LocalizedImage(Record):
    """An image file in ``boxes.json``."""

    file: str
    size: list[int]  # (width, height)
    class_id: int  # the class that is localised
    class_name: str | None  # None if the run knows no names
    score: float  # probability of the class
    boxes: list[list[float]]  # half-open xyxy, pixels of the upright image; none where the score map is constant
    localized: bool  # False without a box, and where a box covers the picture
    others: list[LocalizedClass] | None = None  # the next most likely classes, if several were asked for
    overlay: str | None = None  # PNG of the boxes over the image and, if there is one, the score map


@dataclass(frozen=True)
class UnreadableImage(Record):
    """An image file in ``boxes.json`` that could not be read."""

    file: str
    error: str  # the reason


@dataclass(frozen=True)
class LocalizeResults(Record):
    """``boxes.json`` of ``localize``."""

    run: str  # folder
    protocol: str  # its name
    threshold: float | None  # where the maps were cut; None of a method that gives boxes
    threshold_source: str  # who chose it: "given", "evaluation", "recipe", "default" or, where nothing is cut, "none"
    map: str | None  # what the maps are, for people; None of a method that gives boxes
    images: list[LocalizedImage]  # in the order of the files
    failed: list[UnreadableImage]  # files that could not be read


@dataclass(frozen=True)
class ReproducedRun(Record):
    """One seed of a recipe in ``reproduce.json``: its numbers, or why there are none."""

    seed: int
    run: str  # folder
    numbers: dict[str, float] | None = None
    failure: str | None = None  # the reason why there are no numbers


@dataclass(frozen=True)
class ReproducedRecipe(Record):
    """A recipe in ``reproduce.json``: published numbers, each run's, and the mean, lowest and highest of all runs."""

    paper: dict[str, float]  # published numbers, percent by name
    runs: list[ReproducedRun]
    mean: dict[str, float]
    lowest: dict[str, float]
    highest: dict[str, float]
    chosen_by_boxes: str | None = None  # as in EvalResults
    lossy_decoder: str | None = None  # as in EvalResults


@dataclass(frozen=True)
class Reproduction(Record):
    """``reproduce.json``."""

    recipes: dict[str, ReproducedRecipe]  # by name
    centres: dict[str, dict[str, float]]  # baseline, data set and protocol -> metrics
    written: str  # date and time
    environment: dict[str, Any]  # machine, code and packages


def _key(name: str) -> str:
    """Return the key of a field; an underscore keeps fields apart from Python's keywords."""
    return name.rstrip("_")


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value


@cache
def _hints(cls: type[Record]) -> dict[str, Any]:
    return get_type_hints(cls)


def _built(kind: Any, value: Any, where: str) -> Any:
    """Return ``value``, which JSON gave, as an object of the annotated type ``kind``."""
    if isinstance(kind, UnionType):
        if value is None:
            return None
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if kind is Any:
        return value
    origin, inside = get_origin(kind) or kind, get_args(kind)
    if issubclass(origin, Record) and isinstance(value, dict):
        return _record(origin, value, where)
    if origin is list and isinstance(value, list):
        return [_built(inside[0], one, where) for one in value]
    if origin is dict and isinstance(value, dict):
        return {key: _built(inside[1], one, where) for key, one in value.items()}
    if origin in (str, bool, int, float) and isinstance(value, (int, float) if origin is float else origin):
        return value
    raise ValueError(f"{where}: expected {origin.__name__}, got {type(value).__name__}")


def _record(cls: type[Record], value: dict[str, Any], where: str) -> Record:
    missing = [_key(f.name) for f in fields(cls) if _key(f.name) not in value and f.default is not None]
    if missing:
        raise ValueError(f"{where}: no {missing[0]!r}")
    hints = _hints(cls)  # type: ignore[arg-type]  # classes can be hashed, whatever mypy makes of dataclasses
    given = {name: value[_key(name)] for name in hints if _key(name) in value}
    return cls(**{name: _built(hints[name], one, _key(name)) for name, one in given.items()})
