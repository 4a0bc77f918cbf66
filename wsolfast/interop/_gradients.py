"""Gradients of class scores at a layer of any network, and the maps that refinements make of them."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from wsolfast import ops
from wsolfast._nearest import nearest
from wsolfast.backbones import StageInfo
from wsolfast.interop._features import as_classes, hooked, last_tensor
from wsolfast.ops._checks import as_size, as_tensor
from wsolfast.refinements import (
    IMAGE,
    FeatureError,
    GradientMap,
    Refinement,
    Seen,
    get_refinement,
    list_refinements,
    options_of,
    scores_of,
)
from wsolfast.refinements import gradients_of as gradients_at

Reshape = Callable[[Tensor], Tensor]


def gradients_of(
    model: nn.Module, images: Tensor, layer: str, classes: Tensor | None = None, *, reshape: Reshape | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Run a network and read the features of one of its layers and the gradients of class scores there.

    .. math:: g^c = \partial S_c / \partial A

    The graph starts at the layer: nothing is kept of what lies below, and no gradient is computed there or of a
    parameter. The network, its parameters and their ``grad`` stay as they are, and no hook stays behind, whatever
    happens. Layers above may work in place.

    Args:
        model: any network, in evaluation mode. Class scores S are what it returns; of a dict or an object its
            ``logits``, of a tuple the first element. They are taken as they come: let them be logits, since
            probabilities mix the classes.
        images (Tensor[N, ...]): what ``model`` takes.
        layer: name of a submodule, as ``named_modules`` says it; of several calls the last one counts.
        classes (Tensor[N] or Tensor[N, M]): integers; None for each image's most likely one. M classes take M backward
            passes, each for all images at once.
        reshape: turns the layer's output and its gradient into maps [N, C, h, w], such as :func:`tokens_to_map`, or a
            permutation where channels come last.

    Returns:
        Logits [N, K], features A [N, C, h, w] and gradients [N, C, h, w] or [N, M, C, h, w], without graphs.

    Raises:
        ValueError: if the model is in training mode, there is no such layer, its output is no map, no logits are found,
            they do not depend on the layer, or a class is none of the K.

    Example:

        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> logits, features, gradients = gradients_of(net.eval(), torch.ones(2, 3, 5, 5), "0", torch.tensor([1, 3]))
        >>> gradients.shape, round(float(gradients[0, 1].sum()), 4), int(gradients[0, 0].sum())
        (torch.Size([2, 4, 5, 5]), 1.0, 0)
    """
    images = as_tensor("gradients_of", "images", images)
    with _evaluating("gradients_of", model):
        seen, features, single = _see("gradients_of", model, images, layer, classes, reshape, nullcontext())
        found = list(_gradients("gradients_of", seen, layer, reshape))
    gradients = torch.stack(found, 1) if found else features.new_zeros(len(features), 0, *features.shape[1:])
    assert seen.logits is not None
    return seen.logits.detach(), features, gradients[:, 0] if single else gradients


def grad_cam(
    model: nn.Module,
    images: Tensor,
    layer: str,
    classes: Tensor | None = None,
    *,
    kind: str = "grad_cam",
    reshape: Reshape | None = None,
    size: Sequence[int] | None = None,
    **options: Any,
) -> Tensor:
    r"""Return maps of classes at a layer of any network from features and gradients there, each min-max scaled.

    ``"grad_cam"`` is :math:`\max(0, \sum_c \mathrm{mean}_p(g_{cp}) A_c)`; ``"grad_cam_pp"``, ``"hires_cam"``,
    ``"layer_cam"`` and ``"bagcams"`` are the refinements of these names. Source: Grad-CAM (Selvaraju et al., ICCV
    2017), and the papers that those pages name. One forward pass and, for each of the M classes, one backward pass down
    to the layer; see :func:`gradients_of`.

    Args:
        model: any network, in evaluation mode, as in :func:`gradients_of`.
        images (Tensor[N, ...]): what ``model`` takes.
        layer: name of a submodule; its features are those it returns, before a layer above changes them in place.
        classes (Tensor[N] or Tensor[N, M]): integers; None for each image's most likely one.
        kind: name of the formula.
        reshape: turns the layer's output into maps [N, C, h, w], as in :func:`gradients_of`.
        size: (H, W) to which maps are resized by bilinear interpolation; None leaves them at the layer's size.
        **options: of the refinement but for ``layer``: ``guided`` of ``"bagcams"``, which clips gradients at every ReLU
            above the layer, be it a module or a function, and at no other activation.

    Returns:
        Tensor[N, h, w] or Tensor[N, M, h, w]: in [0, 1], at least float32. A constant map is zero. Where the gradient
        is zero everywhere there is a warning besides: a layer after which a class token alone is read has no gradient
        at its patches.

    Raises:
        ValueError: as :func:`gradients_of`; or if there is no such kind or option, or features or gradients hold NaN or
            infinity.

    Example:

        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> images = torch.linspace(0, 1, 75).view(1, 3, 5, 5)
        >>> maps = grad_cam(net.eval(), images, "0", torch.tensor([2]), kind="layer_cam", size=(20, 20))
        >>> maps.shape, float(maps.min()) >= 0, float(maps.max()) <= 1
        (torch.Size([1, 20, 20]), True, True)
    """
    images = as_tensor("grad_cam", "images", images)
    refinement = _refinement(kind, layer, options)
    size = None if size is None else as_size("grad_cam", "size", size)
    found = []
    with _evaluating("grad_cam", model):
        seen, features, single = _see("grad_cam", model, images, layer, classes, reshape, refinement.watching())
        for gradient, score in zip(_gradients("grad_cam", seen, layer, reshape), scores_of(seen), strict=True):
            # Class by class, or the gradients of all would be held.
            maps = refinement.maps(features, [gradient], [score.detach()])
            _look_at("grad_cam", layer, maps, gradient)
            found.append(maps)
    maps = torch.cat(found, 1) if found else refinement.maps(features, [], [])
    if size is not None:
        maps = ops.min_max_normalize(interpolate(maps, size, mode="bilinear", align_corners=False))
    return maps[:, 0] if single else maps


def backprop(model: nn.Module, images: Tensor, classes: Tensor | None = None, *, smooth: float = 0.02) -> Tensor:
    r"""Return the largest gradient of a class score among the colours of each pixel, smoothed and min-max scaled.

    .. math:: M_c = \max_{rgb} |\partial S_c / \partial x|

    Source: Simonyan et al., "Deep Inside Convolutional Networks", 2013; the smoothing takes the place of its GraphCut.

    Args:
        model: any network, in evaluation mode, as in :func:`gradients_of`.
        images (Tensor[N, C, H, W]): floating point, what ``model`` takes.
        classes (Tensor[N] or Tensor[N, M]): integers; None for each image's most likely one.
        smooth: deviation of the Gaussian as a share of the longer side, in [0, 0.1]; 0 for none.

    Returns:
        Tensor[N, H, W] or Tensor[N, M, H, W]: in [0, 1]; a constant map is zero.

    Raises:
        ValueError: as :func:`gradients_of`; or if ``images`` are no floating-point images, or ``smooth`` is out of
            range.

    Example:

        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5)).eval()
        >>> backprop(net, torch.rand(2, 3, 4, 4), torch.tensor([[0, 4], [1, 2]])).shape
        torch.Size([2, 2, 4, 4])
    """
    images = as_tensor("backprop", "images", images)
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f"backprop: expected floating-point images [N, C, H, W], got {images.dtype} {list(images.shape)}"
        )
    refinement = get_refinement("backprop")([StageInfo(IMAGE, images.shape[1], 1)], smooth=smooth)
    with _evaluating("backprop", model), torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        # A first layer may work in place.
        output = model(leaf.clone())
        seen, single = _seen("backprop", output, {IMAGE: leaf}, len(images), images.shape[2:], classes)
        maps = refinement(seen)
    return maps[:, 0] if single else maps


def _refinement(kind: str, layer: str, options: Mapping[str, Any]) -> GradientMap:
    kinds = [name for name in list_refinements() if issubclass(get_refinement(name), GradientMap)]
    if kind not in kinds:
        raise ValueError(f"grad_cam: no kind {kind!r}; {nearest(kind, kinds)}")
    known = [name for name in options_of(kind) if name != "layer"]
    for name in options:
        if name not in known:
            raise ValueError(f"grad_cam: {kind} has no option {name!r}; it has {', '.join(known) or 'none'}")
    # Of a stage it looks at the name alone.
    refinement: Refinement = get_refinement(kind)([StageInfo(layer, 0, 1)], layer=layer, **options)
    assert isinstance(refinement, GradientMap)
    return refinement


def _see(
    what: str,
    model: nn.Module,
    images: Tensor,
    layer: str,
    classes: Tensor | None,
    reshape: Reshape | None,
    watching: AbstractContextManager,
) -> tuple[Seen, Tensor, bool]:
    """Run a network whose graph starts at the output of a layer.

    Returns:
        What was seen, whose feature ``layer`` is that output; the same as maps [N, C, h, w] without a graph; and
        whether one class of each image is wanted.
    """
    starts: list[object] = []

    def start(output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            starts.append(output)
            return None
        leaf = output.detach().requires_grad_()
        starts[:] = [leaf]
        torch.set_grad_enabled(True)
        # What follows may work in place, which no leaf allows.
        return leaf.clone()

    # Gradients are off below the layer; leaving the context turns them back to what they were.
    with hooked(what, model, layer, start), watching, torch.no_grad():
        output = model(images.clone() if images.is_inference() else images)
    leaf = last_tensor(what, layer, starts)
    features = leaf.detach() if reshape is None else reshape(leaf.detach())
    if not isinstance(features, Tensor) or features.dim() != 4 or not features.is_floating_point():
        given = f"{features.dtype} {list(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        hint = (
            "give reshape=interop.tokens_to_map for tokens, or choose another layer"
            if reshape is None
            else "from reshape"
        )
        raise ValueError(f"{what}: layer {layer!r}: expected floating-point maps [N, C, h, w], got {given}; {hint}")
    seen, single = _seen(what, output, {layer: leaf}, len(features), features.shape[2:], classes)
    return seen, features, single


def _seen(
    what: str,
    output: object,
    features: Mapping[str, Tensor],
    images: int,
    size: Sequence[int],
    classes: Tensor | None,
) -> tuple[Seen, bool]:
    logits = _logits(what, output, images)
    classes = logits.detach().argmax(1) if classes is None else as_tensor(what, "classes", classes, logits)
    wanted = as_classes(what, classes, images, logits.shape[1]).to(logits.device)
    return Seen(size, features, wanted, logits), classes.dim() == 1


def _logits(what: str, output: object, images: int) -> Tensor:
    """Return the class scores in what a network returns."""
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, Sequence) and output:
            found = output[0]
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != images or not found.is_floating_point():
        given = list(found.shape) if isinstance(found, Tensor) else f"a {type(output).__name__} without them"
        raise ValueError(
            f"{what}: expected logits [{images}, K] from the network, got {given}; it may return them, a dict or an "
            "object with logits, or a tuple that starts with them"
        )
    return found


def _gradients(what: str, seen: Seen, layer: str, reshape: Reshape | None) -> Iterator[Tensor]:
    """Yield gradients as maps [N, C, h, w], one class of every image after another."""
    try:
        for gradient in gradients_at(seen, layer, keep_graph=False):
            yield gradient if reshape is None else reshape(gradient)
    except FeatureError as error:
        raise FeatureError(f"{what}: {error}; choose a layer on the way to the logits") from None


def _look_at(what: str, layer: str, maps: Tensor, gradient: Tensor) -> None:
    """Complain about maps that are not finite, and about those that are zero because nothing reaches the layer."""
    if not maps.isfinite().all():
        raise FeatureError(f"{what}: features or gradients of {layer!r} hold NaN or infinity; there is no map of such")
    empty = ~maps.flatten(1).any(1)
    if empty.any() and not gradient[empty].flatten(1).any(1).all():
        warnings.warn(
            f"{what}: the gradient of a class at {layer!r} is zero everywhere, and so is its map; choose an earlier "
            "layer if the logits read only a part of this one",
            stacklevel=3,
        )


@contextmanager
def _evaluating(what: str, model: nn.Module) -> Iterator[None]:
    """Let no image see another one, nor the caller's inference mode forbid a graph.

    Raises:
        ValueError: if a part of the network is in training mode.
    """
    if (training := next((name for name, child in model.named_modules() if child.training), None)) is not None:
        raise ValueError(
            f"{what}: {training or type(model).__name__} is in training mode, in which images of a batch share "
            "statistics; call model.eval() first"
        )
    with torch.inference_mode(False):
        yield
