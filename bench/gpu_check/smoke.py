"""One call of an op, and of its gradient, against its reference: ``python -m wsolfast.bench.gpu_check.smoke OP``."""

import argparse
import importlib
import sys

import torch

from wsolfast.testing import OP_CASES, assert_close, with_gradients


def main() -> int:
    """Compare and return the exit code: 0 equal, 4 no device, 5 different."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("op")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(4, "no CUDA device\n")
    case = OP_CASES[options.op][0]
    inputs = case.make_inputs(options.device, torch.float32)
    call = getattr(torch.ops.wsolfast, options.op)
    plain = getattr(importlib.import_module(f"wsolfast.reference.{options.op}"), options.op)
    try:
        for actual, wanted in zip(_tuple(call(*inputs)), _tuple(plain(*inputs)), strict=True):
            assert_close(actual, wanted)
        if case.differentiable:
            pairs = (with_gradients(inputs) for _ in range(2))
            found = [
                torch.autograd.grad(_tuple(each(*arguments))[0].sum(), wanted)
                for each, (arguments, wanted) in zip((call, plain), pairs, strict=True)
            ]
            for actual, wanted in zip(*found, strict=True):
                assert_close(actual, wanted)
    except AssertionError as error:
        print(f"{options.op} {case.name}: {error}", file=sys.stderr)
        return 5
    print(f"{options.op} {case.name}: as its reference")
    return 0


def _tuple(outputs):
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


if __name__ == "__main__":
    sys.exit(main())
