"""Conversions and checks of arguments that ops and metrics share. What is a tensor already passes through untouched."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What a network gives and what it holds, side by side, under autocast.
_MIXED = (torch.float16, torch.bfloat16, torch.float32)


def as_tensor(op: str, name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """Return a tensor, array, number or nested list as a tensor.

    NumPy decides the dtype: a list of Python floats is float64, one of integers int64. Arrays may have any strides and
    byte order. A list of tensors or arrays of one shape is stacked. What was no tensor comes to the device of ``like``.

    Raises:
        TypeError: if ``value`` holds something else than numbers, or rows of several lengths.
    """
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, list | tuple) and any(isinstance(one, Tensor | np.ndarray) for one in value):
            tensor = torch.stack([as_tensor(op, name, one) for one in value])
        else:
            array = np.asarray(value)
            tensor = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{op}: expected {name} as a tensor, NumPy array or list of numbers, got {_described(value)}"
        ) from None
    return tensor if like is None else tensor.to(like.device)


def as_tensors(op: str, name: str, values: Any) -> list[Tensor]:
    """Return a sequence of tensors or arrays as tensors; they may differ in shape.

    Raises:
        TypeError: if it is no sequence, or as :func:`as_tensor`.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{op}: expected {name} as a sequence of tensors or NumPy arrays, got {_described(values)}")
    return [as_tensor(op, f"{name}[{k}]", value) for k, value in enumerate(values)]


def as_vector(op: str, name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """Return numbers as float64 [T], one number as [1]; float32 keeps its values.

    Raises:
        TypeError: as :func:`as_tensor`.
        ValueError: if they are no real numbers, or more than one row of them.
    """
    vector = as_tensor(op, name, value, like)
    if vector.dim() == 0:
        vector = vector[None]
    if vector.dim() != 1 or not holds_reals(vector):
        raise ValueError(f"{op}: expected {name} as real numbers of shape [n], got {vector.dtype} {list(vector.shape)}")
    return vector.to(torch.float64)


def as_mask(op: str, name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """Return pixels as uint8: of other integers 0 and 1 stay and all else is ignored, 255; True is an object, 1.

    Raises:
        TypeError: as :func:`as_tensor`.
        ValueError: if they are no integers.
    """
    mask = as_tensor(op, name, value, like)
    if mask.dtype == torch.uint8:
        return mask
    if not holds_integers(mask) and mask.dtype != torch.bool:
        raise ValueError(f"{op}: expected {name} as integers or bool, got {mask.dtype} {list(mask.shape)}")
    mask = mask.to(torch.int64)
    return torch.where((mask == 0) | (mask == 1), mask, 255).to(torch.uint8)


def as_number(op: str, name: str, value: Any) -> float:
    """Return a number, also NumPy's or that of a tensor of one element, as a float.

    Raises:
        TypeError: if it is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, np.number | np.ndarray | Tensor) and np.ndim(value) == 0:
        return float(value)
    raise TypeError(f"{op}: expected {name} as a number, got {_described(value)}")


def as_size(op: str, name: str, value: Any, order: str = "(H, W)") -> tuple[int, int]:
    """Return two integers; one integer is the side of a square.

    Raises:
        TypeError: if they are none.
    """
    try:
        if isinstance(value, Sequence):
            first, second = value
        else:
            sides = np.asarray(value)
            first, second = (sides, sides) if sides.ndim == 0 else sides
        return _integer(first), _integer(second)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{op}: expected {name} as {order} or one integer, got {_described(value)}") from None


def as_integer(op: str, name: str, value: Any) -> int:
    """Return an integer of any kind.

    Raises:
        TypeError: if it is none.
    """
    try:
        return _integer(value)
    except TypeError:
        raise TypeError(f"{op}: expected {name} as an integer, got {_described(value)}") from None


def as_flag(op: str, name: str, value: Any) -> bool:
    """Return a truth value.

    Raises:
        TypeError: if it is none.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{op}: expected {name} as True or False, got {_described(value)}")


def check_type(op: str, name: str, value: Any, kind: type) -> None:
    """Raise a TypeError unless ``value`` is of that kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{op}: expected {name} as a {kind.__name__}, got {_described(value)}")


def check_classes(op: str, name: str, classes: Tensor, images: int) -> None:
    """Raise a ValueError unless ``classes`` holds an integer for each of ``images``."""
    if not holds_integers(classes) or classes.shape != (images,):
        raise ValueError(
            f"{op}: expected integers of shape [{images}] for {name}, got {classes.dtype} {list(classes.shape)}"
        )


def holds_integers(tensor: Tensor) -> bool:
    """Return whether the dtype is one of integers, which bool is not."""
    return holds_reals(tensor) and not tensor.is_floating_point()


def holds_reals(tensor: Tensor) -> bool:
    """Return whether the dtype is one of real numbers, which bool is not."""
    return not tensor.is_complex() and tensor.dtype != torch.bool


def in_one_precision(*tensors: Tensor) -> Sequence[Tensor]:
    """Return 16-bit and float32 tensors side by side, as autocast leaves them, all in float32; others as they are."""
    if all(one.dtype == tensors[0].dtype for one in tensors) or not all(one.dtype in _MIXED for one in tensors):
        return tensors
    return [one.float() for one in tensors]


def _integer(value: Any) -> int:
    symbolic = isinstance(value, torch.SymInt)  # which index() would make a constant
    return value if symbolic or isinstance(value, int) else operator.index(value)


def _described(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        return f"{kind} {value.dtype} {list(value.shape)}"
    shown = repr(value)
    return kind if len(shown) > 40 or "\n" in shown else f"{kind} {shown}"
