"""Observers: objects that are told of a run as it happens. An observer that fails is left out, and the run goes on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wsolfast.engine.run.distributed import is_first

if TYPE_CHECKING:
    from PIL import Image

    from wsolfast.engine.run.results import EvalResults


@dataclass(frozen=True)
class EpochEnd:
    """End of an epoch of a stage, as observers are told of it.

    Args:
        stage: its name.
        epochs: of the stage that are done.
        step: number of the stage's steps that are done.
        loss: mean over the epoch; None if no loss was finite, or a stop came between the epoch and its validation.
        images_per_second: of training; None likewise.
        validation: ``accuracy`` in [0, 1], ``loss`` and, where boxes may be looked at, ``gt_known_loc`` in percent;
            empty if there was none.
        pictures: score maps of a few validation images over them, by image id: always the same images. Empty unless an
            observer wants pictures and there was a validation.
    """

    stage: str
    epochs: int
    step: int
    loss: float | None
    images_per_second: float | None
    validation: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, "Image.Image"] = field(default_factory=dict)


class Observer:
    """Receiver of what happens in a run; a subclass overrides what it wants to hear.

    Methods are called in the first process only, in the order of the events. An exception in one of them is logged
    once, and this observer is called no more.

    Attributes:
        wants_pictures: True where :meth:`on_epoch` uses ``pictures``, which cost a forward pass over a few images.
    """

    wants_pictures: bool = False

    def on_event(self, event: Mapping[str, object]) -> None:
        """Hear of a line of ``metrics.jsonl``.

        Args:
            event: ``stage``, ``epoch`` (0-based) and ``step`` (steps of the stage that are done). Of training also
                ``loss``, ``loss_*`` and ``accuracy``, means over the last steps, ``lr``, ``images_per_second`` and
                ``time``. Of a validation also ``validation``, a dict of numbers (None where one is not finite), the
                number of ``images``, and ``best``: True if the weights are the best so far.
        """

    def on_epoch(self, end: EpochEnd) -> None:
        """Hear of the end of an epoch, after its validation.

        Args:
            end: of the epoch.
        """

    def on_evaluation(self, results: "EvalResults") -> None:
        """Hear of an evaluation that is done.

        Args:
            results: the content of ``results.json``.
        """


class Observers:
    """The observers of a run.

    Args:
        log: is given one line when one of them fails; it may be replaced.
    """

    def __init__(self, log: Callable[[str], None]):
        self.log = log
        self._all: list[Observer] = []

    def add(self, observer: Observer) -> None:
        """Tell ``observer`` of everything from now on; in processes other than the first one, of nothing."""
        if is_first():
            self._all.append(observer)

    def remove(self, observer: Observer) -> None:
        """Tell ``observer`` of nothing more."""
        self._all = [one for one in self._all if one is not observer]

    @property
    def want_pictures(self) -> bool:
        """True if one of them wants pictures."""
        return any(getattr(one, "wants_pictures", False) for one in self._all)

    def tell(self, act: Callable[[Observer], object]) -> None:
        """Call ``act`` with each observer; one that raises is left out from then on."""
        for observer in list(self._all):
            try:
                act(observer)
            except Exception as error:
                self.remove(observer)
                self.log(describe_failure(type(observer).__name__, error))


def describe_failure(name: str, error: Exception) -> str:
    """Return the one line about an observer that failed."""
    text = " ".join(str(error).split()) or "no message"
    return f"warning: {name} failed and is left out from now on: {type(error).__name__}: {text}"
