"""Cases of ``pixel_histogram``."""

import torch

from wsolfast.testing._tools import OpCase, seeded
from wsolfast.testing.cases._score_maps import MAPS


def case(name, maps, edges):
    def make_inputs(device, dtype):
        images = MAPS[maps](device, dtype)
        masks = torch.arange(images.numel(), device=device).reshape(images.shape) % 3
        masks = torch.where(masks == 2, 255, masks).to(torch.uint8)
        return images, masks, torch.tensor(edges, dtype=torch.float64, device=device)

    return OpCase(name, make_inputs, differentiable=False)


GRID = [k / 20 for k in range(20)] + [1.0, 2.0, 3.0]

CASES = [
    case("smooth", "smooth", GRID),
    case("on_an_edge", "constant", GRID),
    case("last_edge_closed", "one_pixel", [0.0, 0.5, 1.0]),
    case("outside_the_edges", "noise", [0.25, 0.5]),
    case("repeated_edges", "noise", [0.0, 0.5, 0.5, 1.0]),
    case("empty_batch", "empty_batch", GRID),
    case("not_contiguous", "not_contiguous", GRID),
    case("levels", "levels", [*map(float, range(256)), 258.0, 260.0]),
]

CALL = {
    "maps": seeded((1, 2, 3)).sigmoid(),
    "masks": torch.tensor([[[0, 1, 255], [1, 1, 0]]], dtype=torch.uint8),
    "edges": torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64),
}
