"""The step of an evaluation as a CUDA graph: recorded once, then started by one call instead of one per kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wsolfast.engine.run.errors import BackendError

# Runs before the recording, in which kernels are compiled and libraries choose theirs.
_WARM_UP = 3
# Calls whose results have a size, or are a number, that the host must know, and the making of a tensor of the host's
# numbers, which it copies. Names begin so.
_NUMBERS = (
    "_local_scalar_dense",
    "allclose",
    "equal",
    "nonzero",
    "masked_select",
    "unique",
    "_unique",
    "bincount",
    "repeat_interleave",
    "lift_fresh",
)
_COPIES = ("_to_copy", "copy_")

Outputs = tuple[Tensor, ...]
Step = Callable[..., Outputs]
# From a step without arguments to what it leaves, and what runs it again into the same memory.
Capture = Callable[[Callable[[], Outputs], torch.device], tuple[Outputs, Callable[[], object]]]


class HostWaits(TorchDispatchMode):
    """Notes the calls, while entered, for which a host would have to wait for its device.

    These are numbers, sizes that data decide, and copies from one kind of device to another, of constants too. Inside
    of this package's own ops, which do not wait, nothing is seen.

    Attributes:
        found: names, in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # In inference mode a call comes whole that is made of others, Tensor.item for instance.
        with self:
            result = func.decompose(*args, **kwargs or {})
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs or {})
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(one is not None and one.dtype == torch.bool for one in indices)
        if by_mask or name.startswith(_NUMBERS) or (name in _COPIES and _crosses(result, args)):
            self.found.append(name)
        return result


def _crosses(result: Tensor, args: Sequence[Any]) -> bool:
    """Return whether a copy's source and result lie on other kinds of device."""
    return any(isinstance(one, Tensor) and one.device.type != result.device.type for one in args)


def choose_cuda_graphs(wanted: str, device: torch.device) -> str:
    """Return ``"off"``, ``"auto"`` or ``"on"``: ``runtime.cuda_graphs``, off where the device is no CUDA device.

    Args:
        wanted: as the recipe says.
        device: where the networks run.

    Raises:
        BackendError: if it is ``"on"`` and the device is none.
    """
    if device.type == "cuda":
        return wanted
    if wanted == "on":
        raise BackendError(f"runtime.cuda_graphs: needs a CUDA device, and the device is {device}; use auto or off")
    return "off"


class GraphedStep:
    """A step that is recorded at its first call and replayed for every batch of the same shapes.

    Batches of other shapes, the images' own sizes for instance, run as they would without a graph.

    Args:
        step: of tensors on the device, some of which may be None; its results are tensors there.
        device: a CUDA device.
        required: refuse a step that cannot be recorded, instead of running it without a graph.
        log: is given one line where a step runs without.
        capture: records.
    """

    def __init__(
        self,
        step: Step,
        device: torch.device,
        *,
        required: bool = False,
        log: Callable[[str], None] = lambda text: None,
        capture: Capture | None = None,
    ):
        self._step, self._device, self._required, self._log = step, device, required, log
        self._capture = capture or record
        self._given: tuple[Tensor | None, ...] | None = None
        self._outputs: Outputs = ()
        self._replay: Callable[[], object] | None = None

    def __call__(self, *given: Tensor | None) -> Outputs:
        """Return what the step does of ``given``; the next call overwrites it.

        Raises:
            BackendError: if the step is required to be recorded and waits for the device, or the recording fails.
        """
        if self._given is None:
            # Outside of any inference mode, in which a tensor could later not be written to.
            self._given = tuple(None if one is None else one.clone() for one in given)
            self._replay = self._recorded(self._given)
        if self._replay is None or _shapes(given) != _shapes(self._given):
            return self._step(*given)
        for mine, theirs in zip(self._given, given, strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs, non_blocking=True)
        self._replay()
        return self._outputs

    def _recorded(self, given: tuple[Tensor | None, ...]) -> Callable[[], object] | None:
        """Record the step, unless it would have to wait: what a failed recording leaves in torch is not to be used."""
        # The compiler leaves for good what it first meets under such a mode.
        with torch.compiler.set_stance("force_eager"):
            # Questions that are asked once are asked now.
            self._step(*given)
            with HostWaits() as waits:
                self._step(*given)
        if waits.found:
            reason = f"the step waits for the device ({', '.join(dict.fromkeys(waits.found))}), which no graph can"
            if self._required:
                raise BackendError(f"runtime.cuda_graphs: {reason}; use auto or off")
            self._log(f"without a CUDA graph: {reason}")
            return None
        try:
            self._outputs, replay = self._capture(lambda: self._step(*given), self._device)
        except RuntimeError as error:
            said = str(error).strip().split("\n")[0]
            raise BackendError(f"runtime.cuda_graphs: the step cannot be recorded ({said}); use off") from error
        return replay


def record(run: Callable[[], Outputs], device: torch.device) -> tuple[Outputs, Callable[[], object]]:
    """Record a step on a CUDA device.

    Args:
        run: the step, of tensors that stay where they are.
        device: where they are.

    Returns:
        What the step leaves, which is there after a replay, and the replay.

    Raises:
        RuntimeError: if something in the step cannot be recorded.
    """
    with torch.cuda.device(device):
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                run()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads decode and copy meanwhile, which is no part of the step. The outer stream comes back even
        # where the recording fails.
        with torch.cuda.stream(current), torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            outputs = run()
    return outputs, graph.replay


def _shapes(given: Sequence[Tensor | None]) -> list[torch.Size | None]:
    return [None if one is None else one.shape for one in given]
