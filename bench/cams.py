"""Maps of whole networks beside the plain forward pass, torch-cam and pytorch-grad-cam, after comparing them.

Contenders take the same network, images and classes, and bring maps to the images' size: ``ours``
(``wsolfast.interop``), ``torch-cam`` and ``pytorch-grad-cam``, as their pages say. Beside them stand the plain
``forward`` pass without gradients and, where the layer is not the last, ``forward and backward``: that pass and the
gradient of the class scores down to the layer, without what recording a graph costs.

They take turns, and ratios are those of the least times, to which what else the machine does only adds. On one CPU
thread the clock is that thread's CPU time; on a GPU it is the wall's. Memory is what tensors take at most while a
map is drawn, less that of the forward pass.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from wsolfast import interop, ops
from wsolfast._compat import import_torchvision
from wsolfast.bench.cam_cases import CASES, CamCase
from wsolfast.bench.end_to_end_cases import enliven
from wsolfast.bench.measure import SHARES, environment, need_device
from wsolfast.bench.peers import NotHere
from wsolfast.bench.rows import OURS, Key, Recorder
from wsolfast.bench.tables import Output, present
from wsolfast.engine.run.allocator import keep_freed_memory
from wsolfast.engine.run.errors import BackendError, RunError, UsageError
from wsolfast.testing import assert_close

PACKAGES = ("torch-cam", "pytorch-grad-cam")
TORCH_CAM = {"grad_cam": "GradCAM", "layer_cam": "LayerCAM"}
# Sums over hundreds of channels in float32, stretched to [0, 1] and resized.
TOLERANCE = 1e-3


class Contest:
    """A case's network, images and classes, and what contenders do with them."""

    def __init__(self, case: CamCase, device: str):
        try:
            models = import_torchvision().models
        except ImportError as error:
            raise BackendError(str(error)) from None
        torch.manual_seed(0)
        self.case, self.device = case, device
        self.network: nn.Module = getattr(models, case.network)(weights=None).to(device).eval()
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(case.images, 3, case.side, case.side, generator=generator).to(device)
        self.classes = torch.arange(case.images, device=device)
        enliven(self.network, self.images)
        self.layer = self.network.get_submodule(case.layer)

    def maps(self) -> dict[str, Callable[[], Tensor]]:
        """Return those who draw maps, with maps [N, H, W] as their results."""
        found: dict[str, Callable[[], Tensor]] = {OURS: self.ours}
        if self.case.kind in TORCH_CAM:
            found |= {"torch-cam": self.torch_cam, "pytorch-grad-cam": self.pytorch_grad_cam}
        return found

    def ours(self) -> Tensor:
        case = self.case
        size = tuple(self.images.shape[2:])
        if case.kind != "sem":
            return interop.grad_cam(self.network, self.images, case.layer, self.classes, kind=case.kind, size=size)
        with torch.inference_mode():
            _, features = interop.features_of(self.network, self.images, case.layer)
            maps = interop.class_maps(features, self.network.fc.weight, self.classes)
            return self._resized(interop.sem(features, maps))

    def torch_cam(self) -> Tensor:
        try:
            from torchcam import methods
        except ImportError as error:
            raise NotHere("torchcam is not installed") from error
        with getattr(methods, TORCH_CAM[self.case.kind])(self.network, target_layer=self.case.layer) as extract:
            (maps,) = extract(self.classes.tolist(), self.network(self.images))
        return self._resized(maps)

    def pytorch_grad_cam(self) -> Tensor:
        try:
            import pytorch_grad_cam
            from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        except ImportError as error:
            raise NotHere("grad-cam is not installed") from error
        targets = [ClassifierOutputTarget(label) for label in self.classes.tolist()]
        method = getattr(pytorch_grad_cam, TORCH_CAM[self.case.kind])
        with method(model=self.network, target_layers=[self.layer]) as extract:
            return torch.from_numpy(extract(self.images, targets))

    def forward(self) -> Tensor:
        with torch.inference_mode():
            return self.network(self.images)

    def start_backward(self) -> Callable[[], Tensor]:
        """Return the pass from the class scores down to the layer."""
        seen: list[Tensor] = []

        def cut(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
            seen.append(output.detach().requires_grad_())
            return seen[0].clone()

        hook = self.layer.register_forward_hook(cut)
        score = self.network(self.images).gather(1, self.classes[:, None]).sum()
        hook.remove()
        return lambda: torch.autograd.grad(score, seen[0])[0]

    def check(self) -> None:
        """Compare our maps with those of the packages that are here.

        Raises:
            AssertionError: if they differ by more than rounding.
        """
        calls = self.maps()
        found = calls.pop(OURS)().cpu()
        for call in calls.values():
            try:
                assert_close(found, call().cpu(), TOLERANCE)
            except NotHere:
                continue

    def extra_bytes(self, call: Callable[[], Tensor]) -> int:
        """Return the memory that tensors take at most during a call."""
        self.network.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as seen:
            call()
        kineto = seen.profiler.kineto_results
        changes = [(event.start_ns(), event.nbytes()) for event in kineto.events() if event.name() == "[memory]"]
        taken = most = 0
        for _, size in sorted(changes, key=lambda change: change[0]):
            taken += size
            most = max(most, taken)
        return most

    def _resized(self, maps: Tensor) -> Tensor:
        size = self.images.shape[2:]
        return ops.min_max_normalize(interpolate(maps[:, None], size, mode="bilinear", align_corners=False))[:, 0]


def timers(contest: Contest, clock: Callable[[], float]) -> dict[str, Callable[[], float]]:
    """Return who is timed; each call gives the seconds of one turn."""
    wait = torch.cuda.synchronize if contest.device == "cuda" else (lambda: None)

    def seconds(call: Callable[[], object]) -> float:
        wait()
        begin = clock()
        call()
        wait()
        return clock() - begin

    def both() -> float:
        return seconds(contest.forward) + seconds(contest.start_backward())

    calls: dict[str, Callable] = contest.maps() | {"forward": contest.forward}
    found = {name: lambda call=call: seconds(call) for name, call in calls.items()}
    return found | ({"forward and backward": both} if "forward and backward" in contest.case.targets else {})


def turns(
    calls: dict[str, Callable[[], float]], rounds: int, overdue: Callable[[], bool]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the seconds of everybody in every round, after one that does not count, and why others have none."""
    absent: dict[str, str] = {}
    for name in list(calls):
        try:
            calls[name]()
        except NotHere as reason:
            absent[name] = str(reason)
            del calls[name]
    taken: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        if number and overdue():
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(calls[name]())
    return taken, absent


def rows_of(taken: Mapping[str, list[float]], memory: Mapping[str, int], case: CamCase) -> Iterator[dict]:
    """Yield rows: times of a call, beside ours the ratio of the least ones, memory above the forward pass, targets."""
    for name, values in taken.items():
        row = {
            "contender": name,
            "status": "ok",
            "ms": {f"p{share}": sorted(values)[share * (len(values) - 1) // 100] * 1e3 for share in SHARES},
            "least_ms": min(values) * 1e3,
            "calls": len(values),
        }
        if name in memory:
            row["bytes_above_forward"] = memory[name]
        if name == OURS:
            yield row | {"targets": dict(case.targets)}
        else:
            yield row | {"ratio": min(values) / min(taken[OURS]), "partial": name not in PACKAGES}


def verdicts(rows: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    """Return, of each target, whether it was MET or MISSED, and the numbers; nothing of what was not measured."""
    told = []
    for name, wanted in rows[OURS]["targets"].items():
        if name == "memory":
            theirs = [row["bytes_above_forward"] for who, row in rows.items() if who in PACKAGES and "ms" in row]
            if not theirs:
                continue
            found = rows[OURS]["bytes_above_forward"] / max(1, min(theirs))
        elif "ratio" in rows.get(name, {}):
            found = 1 / rows[name]["ratio"]
        else:
            continue
        told.append(("MET" if found <= wanted else "MISSED", f"{wanted:.2f} of {name}: {found:.2f}"))
    return told


def notes(key: Key, rows: Mapping[str, Mapping]) -> list[str]:
    """Memory above the forward pass, and whether each target is met."""
    above = [
        f"{name} {row['bytes_above_forward'] / 2**20:.0f} MiB"
        for name, row in rows.items()
        if "bytes_above_forward" in row
    ]
    return [f"above the forward pass: {', '.join(above)}", *(" ".join(verdict) for verdict in verdicts(rows))]


def run(
    output: Output,
    *,
    device: str = "cpu",
    case: Sequence[str] = (),
    quick: bool = False,
    rounds: int = 7,
    threads: int = 1,
    minutes: float = float("inf"),
) -> None:
    """Compare, time and show.

    Args:
        output: where results go.
        device: ``cpu`` or ``cuda``.
        case: only cases whose name starts with one of these; all without.
        quick: a small network and two images, to see that it works.
        rounds: how often contenders take turns.
        threads: on a CPU.
        minutes: start no measurement after these.

    Raises:
        UsageError: for an unknown case.
        BackendError: if there is no such device, or no torchvision.
        CheckError: if results are wrong.
        RunError: if time is up before all is measured.
    """
    need_device(device)
    cases = CASES["quick" if quick else device]
    chosen = [each for each in cases if each.name.startswith(tuple(case or ("",)))]
    if not chosen:
        raise UsageError(f"no case {case[0]!r}; known: {', '.join(each.name for each in cases)}")
    if device == "cpu":
        torch.set_num_threads(threads)
        keep_freed_memory()
    clock = time.thread_time if (device, threads) == ("cpu", 1) else time.perf_counter
    end = time.monotonic() + 60 * minutes
    facts = environment(device, threads) | ({"clock": "wall time"} if device == "cuda" else {})
    found = Recorder("cams", output.json, facts)
    for each in chosen:
        if OURS not in found.of(case=each.name) and time.monotonic() < end:
            compare(Contest(each, device), rounds, clock, found, lambda: time.monotonic() > end)
    shown = found.restricted(found.results.key({"case": each.name}) for each in chosen)
    present(shown, notes, output)
    if len(shown.cases) < len(chosen):
        raise RunError("out of time: run again for the missing rows")


def compare(
    contest: Contest, rounds: int, clock: Callable[[], float], found: Recorder, overdue: Callable[[], bool]
) -> None:
    """Add the rows of a case, or one that says what is wrong."""
    identity = {"case": contest.case.name}
    try:
        contest.check()
    except AssertionError as error:
        found.add(identity | {"contender": OURS, "status": f"wrong: {error}"})
        return
    taken, absent = turns(timers(contest, clock), rounds, overdue)
    plain = contest.extra_bytes(contest.forward)
    drawing = {name: call for name, call in contest.maps().items() if name in taken}
    memory = {name: contest.extra_bytes(call) - plain for name, call in drawing.items()}
    for row in rows_of(taken, memory, contest.case):
        found.add(identity | row)
    for name, reason in absent.items():
        found.add(identity | {"contender": name, "status": reason})
    print(f"measured: {contest.case.name}", file=sys.stderr, flush=True)
