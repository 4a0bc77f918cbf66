"""One call of each op, and its gradient, against its reference: ``python -m wsolfast.bench.gpu_check.smoke OP ...``."""

import argparse
import importlib
import sys
from collections.abc import Iterable

import torch

from wsolfast.testing import OP_CASES, OpCase, assert_close, tolerance_on, with_gradients


def compare(op: str, case: OpCase, device: str) -> None:
    """Compare what an op and its reference return, and their gradients.

    Raises:
        AssertionError: if they differ.
    """
    inputs = case.make_inputs(device, torch.float32)
    contenders = (
        getattr(torch.ops.wsolfast, op).default,
        getattr(importlib.import_module(f"wsolfast.reference.{op}"), op),
    )
    tolerance = tolerance_on(device, op, torch.float32)
    _compare_all(*(_tuple(call(*inputs)) for call in contenders), tolerance=tolerance)
    if case.differentiable:
        found = []
        for call in contenders:
            arguments, wanted = with_gradients(inputs)
            found.append(torch.autograd.grad(_tuple(call(*arguments))[0].sum(), wanted))
        _compare_all(*found, tolerance=tolerance)


def _compare_all(found: Iterable[torch.Tensor], wanted: Iterable[torch.Tensor], *, tolerance: float) -> None:
    for actual, expected in zip(found, wanted, strict=True):
        if actual.is_floating_point():
            assert_close(actual, expected, tolerance)
        else:
            assert torch.equal(actual, expected)


def _tuple(outputs: object) -> tuple:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def main() -> int:
    """Compare and return the exit code: 0 equal, 4 no device, 5 different."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("op", nargs="+", choices=OP_CASES)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no CUDA device\n")
    wrong = 0
    for op in options.op:
        case = OP_CASES[op][0]
        try:
            compare(op, case, options.device)
            print(f"{op} {case.name}: as its reference", flush=True)
        except AssertionError as error:
            wrong += 1
            print(f"{op} {case.name}: {error or 'differs'}", file=sys.stderr, flush=True)
    return 5 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
