"""Updates of the weights after gradients are there: scale of float16, clipping, the optimizer's step, the average."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from wsolfast.engine.training.gradients import StepResult, gradient_norm
from wsolfast.methods import Method
from wsolfast.recipe import OptimSpec


class WeightAverage:
    """Exponential moving average of a method's weights, which begins at their present values.

    Of everything that ``state_dict`` holds, floating point tensors are averaged, so that running statistics go with the
    weights that they were measured under; others, which count, are copied.

    Args:
        method: is followed.
        decay: share of the average in its next value, in (0, 1).
    """

    def __init__(self, method: Method, decay: float):
        self.method = method
        self.state = {name: tensor.detach().clone() for name, tensor in method.state_dict().items()}
        self._blend = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Blend in the present weights of the method."""
        now = self.method.state_dict()
        floating = [name for name, tensor in now.items() if tensor.is_floating_point()]
        self._blend([self.state[name] for name in floating], [now[name] for name in floating], len(floating))
        for name in now.keys() - set(floating):
            self.state[name].copy_(now[name])

    def load(self, state: dict[str, Tensor]) -> None:
        """Set the average to what a checkpoint holds."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])


class WeightUpdate:
    """Optimizer of a method with what is done before and after its step; each of them only if it is asked for.

    Args:
        method: gets the steps.
        optimizer: of its parameters.
        spec: says whether gradients are clipped and weights averaged.
        scaler: scales the losses of float16, or None.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        spec: OptimSpec,
        scaler: torch.amp.GradScaler | None = None,
    ):
        self.method, self.optimizer, self.spec, self.scaler = method, optimizer, spec, scaler
        self.average = None if spec.ema is None else WeightAverage(method, spec.ema)
        self._norm = torch.zeros(())

    def gradient_norm(self) -> Tensor:
        """Return the 2-norm of all gradients together, a scalar, once they are there; without their scale."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self._norm = gradient_norm(self.optimizer)
        return self._norm

    def apply(self) -> None:
        """Take the optimizer's step along gradients that are finite."""
        if self.spec.grad_clip is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grads_with_norm_(parameters, self.spec.grad_clip, self._norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update()

    def lower_scale(self, result: StepResult) -> bool:
        """Lower the scale of float16 after a step without finite gradients; True if that was its fault, and may help.

        It is not where a loss itself is not finite, or gradients are not at a scale of 1.
        """
        if self.scaler is None:
            return False
        before = self.scaler.get_scale()
        self.scaler.update()
        overflowed = all(map(math.isfinite, result.losses.values())) and self.scaler.get_scale() < before
        return overflowed and before > 1

    def state(self) -> dict[str, dict]:
        """Return what a checkpoint must hold besides the method and the optimizer; empty if nothing is asked for."""
        state: dict[str, dict] = {}
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        if self.average is not None:
            state["ema"] = self.average.state
        return state

    def load(self, saved: dict) -> None:
        """Load what :meth:`state` returned; a run that goes on in float16 and began otherwise has no scale yet."""
        if self.scaler is not None and "scaler" in saved:
            self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.load(saved["ema"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the method have its average weights while entered, if they are averaged."""
        if self.average is None:
            yield
            return
        before = {name: tensor.detach().clone() for name, tensor in self.method.state_dict().items()}
        self.method.load_state_dict(self.average.state)
        try:
            yield
        finally:
            self.method.load_state_dict(before)
