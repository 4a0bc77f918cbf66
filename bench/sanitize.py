"""Calls every kernel of csrc/cuda at small sizes, for a tool that watches them:

    compute-sanitizer --tool memcheck python -m wsolfast.bench.sanitize

Results are compared with the CPU kernels'. Exit code 5 when one differs, 4 without a CUDA device. For races see
:mod:`wsolfast.bench.racecheck`.
"""

import argparse
import sys
from dataclasses import replace

import torch

from wsolfast import ops
from wsolfast.ops import GAUSSIAN_PRIORS, BoxRule
from wsolfast.testing import OP_CASES, OpCase
from wsolfast.testing.cases import _score_maps

# Its runs do not fit shared memory, so cuts and contours go through global memory.
NOISE = torch.rand((2, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def private_cases() -> dict[str, list[OpCase]]:
    """Ways of calling what OP_CASES does not reach."""

    def call(name, maps, rule, size=None):
        def make_inputs(device, dtype):
            return maps(device, dtype), _score_maps.thresholds(device), size or [], rule.pack()

        return OpCase(name, make_inputs, differentiable=False)

    def noise(device, dtype):
        return NOISE.to(device, dtype)

    def noisy_labels(device, dtype):
        prior = replace(GAUSSIAN_PRIORS["released"], min_area=0.0)
        return noise(device, dtype), *NOISE.shape[1:], *prior.codes()

    multi = BoxRule(selection="all")
    listed = [call(*way) for way in _score_maps.ways_of_calling() if way[2].selection == "all"]
    return {
        "_score_map_boxes_all": [*listed, call("global_memory", noise, multi)],
        "score_map_boxes": [call("global_memory", noise, BoxRule())],
        "gaussian_prior_labels": [OpCase("global_memory", noisy_labels, differentiable=False)],
    }


def cases() -> dict[str, list[OpCase]]:
    """Cases by op, for the ops that csrc/cuda serves."""
    served = [op for op, backends in ops.backends().items() if backends["cuda"] == "csrc"]
    return {op: [*OP_CASES.get(op, []), *private_cases().get(op, [])] for op in served}


def differs(op: str, case: OpCase, dtype: torch.dtype) -> bool:
    call = getattr(torch.ops.wsolfast, op)
    found, expected = (call(*case.make_inputs(device, dtype)) for device in ("cuda", "cpu"))
    pairs = zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, expected)), strict=True)
    return not all(torch.allclose(a.cpu(), b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("ops", nargs="*", help="only these; all without")
    chosen = parser.parse_args().ops
    known = cases()
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        parser.error(f"no CUDA kernel for {', '.join(unknown)}; there are {', '.join(known)}")
    if not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        return 4
    wrong = 0
    for op in chosen or known:
        for case in known[op]:
            for dtype in (torch.float32, torch.float64):
                if differs(op, case, dtype):
                    print(f"{op} {case.name} {dtype}: differs from the CPU kernel", file=sys.stderr)
                    wrong += 1
        torch.cuda.synchronize()
        print(f"{op}: {len(known[op])} cases")
    return 5 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
