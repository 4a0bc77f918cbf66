"""Networks of timm with their own heads: the last features on a grid, and the logits that the head makes of them."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from wsolfast.backbones._base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LOGITS,
    Architecture,
    Backbone,
    BackboneError,
    StageInfo,
)
from wsolfast.backbones._timm_network import TimmNetwork, origin_of

# Modules by whose names timm calls the members of a sequence that a network is.
_BLOCK = re.compile(r"(?:block|layer|stage)\w*\.\d+$")
# Positions down and across, at least: one shows no place.
_LEAST = 2
# Sums of thousands of float32 products differ by 1e-5 of the largest; what is not linear differs by more than this.
_LINEAR_WITHIN = 1e-3


class WholeTimm(TimmNetwork):
    """Backbone around a whole timm network: ``forward`` gives its last features and ``"logits"`` [N, K].

    The features are those that its head reads. Where the head looks at no position of them, as that of a class token,
    they are those of the deepest block of which the logits depend at its positions.

    Args:
        net: built by timm, with its classifier, on the CPU.
        side: of the square images that it is built for, in pixels.
        freeze_bn: batch norms stay in eval mode under ``.train()``.

    Raises:
        BackboneError: if no features on a grid are found of which the logits depend.
    """

    # nn.Module would type its attributes as modules.
    net: Any

    def __init__(self, net: nn.Module, *, side: int, freeze_bn: bool = False):
        super(Backbone, self).__init__()
        self.net, self._side = net, side
        config: Any = self.net.pretrained_cfg
        mode = net.training
        net.eval()
        self._source, self.own_classes = self._find_source()
        net.train(mode)
        given = {"mean": config.get("mean", IMAGENET_MEAN), "std": config.get("std", IMAGENET_STD)}
        stage = StageInfo(self._source.name(side), self._source.channels, side // self._source.side)
        self._describe(Architecture(net, {}, origin=origin_of(config), **given), (stage,), freeze_bn)

    def extract(self, normalized: Tensor) -> dict[str, Tensor]:
        if normalized.shape[0] == 0:
            # timm reshapes with a side to be told from the number of elements.
            one = torch.cat([normalized, normalized.new_zeros(1, *normalized.shape[1:])])
            return {name: found[:0] for name, found in self.extract(one).items()}
        found, logits = self._pass(normalized, self._source.path, self._source.position)
        return {self.stages[0].name: self._source.as_map(found, self._grid(normalized)), LOGITS: logits}

    def features_with_graph(self, image: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the features, a leaf that asks for a gradient, and the logits as a function of it.

        The deviations by which norms of the head divide are constants. So behind mean, norm and linear layer the
        gradient is CAM's weight. Source: the LN-rule of Ali et al., "XAI for Transformers", ICML 2022.

        Raises:
            BackboneError: if there is no such stage.
        """
        if stage != self.stages[0].name:
            raise BackboneError(f"backbone: no stage {stage!r} to start from; there is {self.stages[0].name}")
        leaves: list[Tensor] = []

        def start(found: Tensor) -> Tensor:
            leaves.append(self._source.as_map(found, self._grid(image)).detach().requires_grad_())
            torch.set_grad_enabled(True)
            return self._source.with_map(found, leaves[-1])

        with torch.no_grad():
            normalized, source = self.normalize(image), self._source
            _, logits = self._pass(normalized, source.path, source.position, start, head=_ConstantDeviation())
        return {stage: leaves[-1], LOGITS: logits}

    @torch.no_grad()
    def head_is_linear(self) -> bool:
        """Return True if a logit is the sum of features times their gradient and a constant.

        The gradient is that of :meth:`features_with_graph`. It is looked at for two random features.
        """
        if self._source.path:
            return False
        generator, like = torch.Generator().manual_seed(0), next(self.parameters())
        found = torch.randn(2, *self._source.shape, generator=generator).to(like).requires_grad_()
        mode = self.training
        self.eval()
        with torch.enable_grad(), _ConstantDeviation():
            logits = self.net.forward_head(found)
            score = (logits * torch.randn(logits.shape[1], generator=generator).to(logits)).sum(1)
            (gradient,) = torch.autograd.grad(score.sum(), found)
        self.train(mode)
        rest = score - (gradient * found).flatten(1).sum(1)
        return bool((rest[0] - rest[1]).abs() <= _LINEAR_WITHIN * score.abs().max())

    def _grid(self, image: Tensor) -> tuple[int, int]:
        height, width = (self._source.side * side // self._side for side in image.shape[2:])
        return height, width

    @torch.no_grad()
    def _find_source(self) -> tuple["_Source", int]:
        """Look for the deepest features of which the logits depend, with an image of noise; count the classes, too."""
        image = torch.randn(1, 3, self._side, self._side, generator=torch.Generator().manual_seed(0))
        for path in self._candidates(image):
            found, logits = self._pass(image, path)
            several = found if isinstance(found, tuple) else (found,)
            for position in reversed(range(len(several))):
                source = _Source.of(path, position, several[position], self.net)
                if source is not None and self._depends_on(source, image):
                    return source, logits.shape[1]
        raise BackboneError(
            "backbone: no layer of this network gives features on a grid of which its classes depend; choose another"
        )

    def _candidates(self, image: Tensor) -> Iterator[str]:
        """Yield paths from the head towards the image: "" for what it reads, what timm lists, all that is numbered."""
        yield ""
        yield from reversed([str(info["module"]) for info in getattr(self.net, "feature_info", [])])
        ran: list[str] = []
        hooks = [
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
            for name, module in self.net.named_modules()
            if _BLOCK.search(name)
        ]
        self.net(image)
        for hook in hooks:
            hook.remove()
        yield from reversed(ran)

    def _depends_on(self, source: "_Source", image: Tensor) -> bool:
        # What is no number stays none through every layer that reads it, even if its weights are zero.
        nothing = torch.full((1, source.channels, source.side, source.side), math.nan)
        _, logits = self._pass(image, source.path, source.position, lambda found: source.with_map(found, nothing))
        return bool(logits.isnan().any())

    def _pass(
        self,
        normalized: Tensor,
        path: str,
        position: int | None = None,
        change: Callable[[Tensor], Tensor] = lambda found: found,
        *,
        head: AbstractContextManager | None = None,
    ) -> tuple[Any, Tensor]:
        """Return what the module at ``path`` gives, after a change that later layers see, and the logits.

        Without a path it is what the head reads, which then runs in the context ``head``. Of a module that gives a
        tuple it is what stands at ``position``, or all of it.
        """
        if not path:
            found = change(self.net.forward_features(normalized))
            with head or nullcontext():
                return found, self.net.forward_head(found)
        seen: list[Any] = [None]

        def look(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
            if position is None or not isinstance(output, tuple):
                seen.append(change(output))
                return seen[-1]
            seen.append(change(output[position]))
            return (*output[:position], seen[-1], *output[position + 1 :])

        hook = self.net.get_submodule(path).register_forward_hook(look)
        try:
            logits = self.net(normalized)
        finally:
            hook.remove()
        return seen[-1], logits


@dataclass(frozen=True)
class _Source:
    """A layer whose output stands on a grid, and how that is laid out."""

    path: str  # of the module; "" for what the head reads
    position: int  # where that gives a tuple
    shape: tuple[int, ...]  # of the output for one square image, without the batch
    layout: Literal["CHW", "HWC", "LC"]
    side: int  # of the grid for that image
    prefix: int = 0  # tokens before the patches
    number: int = 0  # of the block

    @classmethod
    def of(cls, path: str, position: int, found: object, net: Any) -> Self | None:
        """Return the layout of the output for one square image; None if it stands on no grid."""
        if not isinstance(found, Tensor) or found.dim() not in (3, 4) or len(found) != 1:
            return None
        shape = tuple(found.shape[1:])
        if found.dim() == 3:
            # Blocks may work without the tokens that the network joins to the patches at its end, or with two of them.
            prefixes = (getattr(net, "num_prefix_tokens", 0), 0, 1, 2)
            prefix = next((count for count in prefixes if _is_square(shape[0] - count)), None)
            if prefix is None or shape[0] - prefix < _LEAST**2:
                return None
            listed = [str(info["module"]) for info in getattr(net, "feature_info", [])]
            number = re.findall(r"\d+", path or " ".join(listed)) or ["0"]
            return cls(path, position, shape, "LC", math.isqrt(shape[0] - prefix), prefix, int(number[-1]))
        last = str(getattr(net, "output_fmt", "NCHW")) == "NHWC" if len(set(shape)) == 1 else shape[0] == shape[1]
        height, width = shape[:2] if last else shape[1:]
        if height != width or height < _LEAST:
            return None
        return cls(path, position, shape, "HWC" if last else "CHW", height)

    @property
    def channels(self) -> int:
        return self.shape[0 if self.layout == "CHW" else -1]

    def name(self, side: int) -> str:
        """Return the name of a stage here, for images of ``side`` pixels."""
        return f"block{self.number}" if self.layout == "LC" else f"conv{round(math.log2(side / self.side))}"

    def as_map(self, found: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the output as features [N, C, h, w]."""
        if self.layout == "LC":
            if grid[0] * grid[1] != found.shape[1] - self.prefix:
                raise ValueError(f"backbone: {found.shape[1] - self.prefix} patches do not fill a grid of {grid}")
            return found[:, self.prefix :].mT.unflatten(2, grid)
        return found.permute(0, 3, 1, 2) if self.layout == "HWC" else found

    def with_map(self, found: Tensor, features: Tensor) -> Tensor:
        """Return the output with these features in place of its own."""
        if self.layout == "LC":
            return torch.cat([found[:, : self.prefix], features.flatten(2).mT], dim=1)
        return features.permute(0, 2, 3, 1) if self.layout == "HWC" else features


def _is_square(count: int) -> bool:
    return count >= 0 and math.isqrt(count) ** 2 == count


class _ConstantDeviation(TorchFunctionMode):
    """Mode in which no gradient passes through the deviation by which a layer norm or an RMS norm divides."""

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.rsqrt, Tensor.rsqrt):
            return func(args[0].detach())
        return _NORMS.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(
    x: Tensor, shape: Iterable[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    axes = tuple(range(-len(tuple(shape)), 0))
    deviation = (x.detach().var(axes, correction=0, keepdim=True) + eps).sqrt()
    found = (x - x.mean(axes, keepdim=True)) / deviation
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _rms_norm(x: Tensor, shape: Iterable[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    axes = tuple(range(-len(tuple(shape)), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    found = x / (x.detach().square().mean(axes, keepdim=True) + eps).sqrt()
    return found if weight is None else found * weight


_NORMS: dict[Any, Callable] = {functional.layer_norm: _layer_norm, functional.rms_norm: _rms_norm}
