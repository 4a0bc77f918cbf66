"""Features of a layer, tokens as maps, class maps."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wsolfast import ops
from wsolfast._nearest import nearest
from wsolfast.ops._checks import as_integer, as_size, as_tensor, holds_integers, in_one_precision


def features_of(module: nn.Module, image: Tensor, layer: str) -> tuple[object, Tensor]:
    """Run a network and read one of its layers on the way; no hook stays behind, whatever happens.

    Args:
        module: any network; it runs in the mode and with the gradients that are set.
        image (Tensor[N, ...]): what ``module`` takes.
        layer: name of a submodule, as ``named_modules`` says it; of several calls the last one counts.

    Returns:
        What the network returns, and the layer's output.

    Raises:
        ValueError: if there is no such layer, it did not run, or its output is no tensor.
    """
    seen: list[object] = []
    with hooked("features_of", module, layer, seen.append):
        output = module(image)
    return output, last_tensor("features_of", layer, seen)


@contextmanager
def hooked(what: str, module: nn.Module, layer: str, hook: Callable[[object], object]) -> Iterator[None]:
    """Call ``hook`` with every output of a layer while this context lasts; what it returns, if anything, replaces it.

    Raises:
        ValueError: if there is no such layer.
    """
    known = {name: child for name, child in module.named_modules() if name}
    if layer not in known:
        hint = nearest(layer, known, f"its layers start with {', '.join(list(known)[:3])}")
        raise ValueError(f"{what}: {type(module).__name__} has no layer {layer!r}; {hint}")
    handle = known[layer].register_forward_hook(lambda _module, _inputs, output: hook(output))
    try:
        yield
    finally:
        handle.remove()


def last_tensor(what: str, layer: str, seen: Sequence[object]) -> Tensor:
    """Return the last of a layer's outputs.

    Raises:
        ValueError: if there is none, or it is no tensor.
    """
    if not seen:
        raise ValueError(f"{what}: layer {layer!r} did not run; choose one that the forward pass calls")
    if not isinstance(seen[-1], Tensor):
        raise ValueError(f"{what}: layer {layer!r} gives a {type(seen[-1]).__name__}, not a tensor; choose another")
    return seen[-1]


def tokens_to_map(tokens: Tensor, grid: tuple[int, int] | None = None, prefix: int = 1) -> Tensor:
    """Return the patch tokens of a vision transformer as a feature map.

    Args:
        tokens (Tensor[N, prefix + h·w, C]): patches row by row after the class and register tokens.
        grid: (h, w), patches down and across; None if the grid is square.
        prefix: tokens that are no patch, e.g. timm's ``num_prefix_tokens``.

    Returns:
        Tensor[N, C, h, w]: a view.

    Raises:
        ValueError: if ``tokens`` is not 3-d or the patches do not fill the grid.
    """
    tokens = as_tensor("tokens_to_map", "tokens", tokens)
    prefix = as_integer("tokens_to_map", "prefix", prefix)
    if tokens.dim() != 3 or not 0 <= prefix < tokens.shape[1]:
        raise ValueError(
            f"tokens_to_map: expected tokens [N, {prefix} + h*w, C] with a patch, got {list(tokens.shape)}; "
            "prefix counts class and register tokens"
        )
    patches = tokens.shape[1] - prefix
    side = math.isqrt(patches)
    height, width = (side, side) if grid is None else as_size("tokens_to_map", "grid", grid, "(h, w)")
    if height * width != patches or height < 1:
        raise ValueError(
            f"tokens_to_map: {patches} patches do not fill a grid of {height} x {width}; give grid=(h, w), "
            f"or another prefix than {prefix}"
        )
    return tokens[:, prefix:].mT.unflatten(2, (height, width))


def class_maps(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    r"""Return the class activation maps of a linear classifier, each min-max scaled.

    .. math:: M_c(x, y) = \sum_k w^c_k f_k(x, y)

    Source: CAM (Zhou et al., CVPR 2016), Eq 2. A bias would shift a map as a whole, which the scaling undoes.

    Args:
        features (Tensor[N, C, h, w]): what the classifier sees the mean of, or patch tokens as a map.
        weight (Tensor[K, C]): the classifier's; trailing axes of size 1, as of a 1×1 convolution, are allowed. One
            of float32 beside features of 16 bits gives float32 maps.
        classes (Tensor[N] or Tensor[N, M]): integers, whose maps are wanted.

    Returns:
        Tensor[N, h, w] or Tensor[N, M, h, w]: in [0, 1]; a constant map is zero.

    Raises:
        ValueError: if shapes do not fit or a class is none of the K.
    """
    features, weight = as_tensor("class_maps", "features", features), as_tensor("class_maps", "weight", weight)
    classes = as_tensor("class_maps", "classes", classes, features)
    features, weight = in_one_precision(features, weight)
    matrix = weight.flatten(1) if weight.dim() else weight
    if features.dim() != 4 or weight.dim() < 2 or matrix.shape[1] != features.shape[1]:
        raise ValueError(
            f"class_maps: expected features [N, C, h, w] and weight [K, C], "
            f"got {list(features.shape)} and {list(weight.shape)}"
        )
    if features.dtype != weight.dtype or not features.is_floating_point():
        raise ValueError(
            f"class_maps: expected features and weight of one floating dtype, got {features.dtype} and {weight.dtype}"
        )
    wanted = matrix[as_classes("class_maps", classes, len(features), len(matrix))]  # [N, M, C]
    maps = (wanted @ features.flatten(2)).unflatten(2, features.shape[2:])
    return ops.min_max_normalize(maps if classes.dim() == 2 else maps[:, 0])


def as_classes(what: str, classes: Tensor, images: int, known: int) -> Tensor:
    """Return classes [N] or [N, M] as int64 [N, M].

    Raises:
        ValueError: if they are no integers of ``images`` images, or one is none of the ``known`` classes.
    """
    if classes.dim() not in (1, 2) or len(classes) != images or not holds_integers(classes):
        raise ValueError(
            f"{what}: expected integer classes of {images} images, got {classes.dtype} {list(classes.shape)}"
        )
    classes = classes.to(torch.int64)
    if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < known:
        raise ValueError(f"{what}: classes are 0 to {known - 1}, got {int(classes.min())} to {int(classes.max())}")
    return classes if classes.dim() == 2 else classes[:, None]
