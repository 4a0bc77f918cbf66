"""Binary masks in which contours nest, touch, tie or run along the border."""

import numpy as np


def from_text(text: str) -> np.ndarray:
    """Rows of ``#`` and ``.`` to a uint8 mask of 255 and 0."""
    return np.array([[255 * (c == "#") for c in row.split()[0]] for row in text.strip().splitlines()], dtype=np.uint8)


def rings(size: int, step: int) -> np.ndarray:
    """Nested square rings, each inside the hole of the one around it."""
    y, x = np.mgrid[:size, :size]
    depth = np.minimum(np.minimum(x, y), np.minimum(size - 1 - x, size - 1 - y))
    return (255 * ((depth // step) % 2)).astype(np.uint8)


def spiral(size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    y, x, dy, dx, length = size // 2, size // 2, 0, 1, 2
    while True:
        for _ in range(2):
            for _ in range(length):
                if not (0 <= y < size and 0 <= x < size):
                    return mask
                mask[y, x] = 255
                y, x = y + dy, x + dx
            dy, dx = dx, -dy
        length += 2


def bars(*lengths: int) -> np.ndarray:
    """Horizontal 1-pixel lines: contours without area."""
    mask = np.zeros((2 * len(lengths) + 1, max(lengths) + 2), np.uint8)
    for row, length in enumerate(lengths):
        mask[2 * row + 1, 1 : 1 + length] = 255
    return mask


CHECKERBOARD = (255 * (np.indices((9, 10)).sum(0) % 2)).astype(np.uint8)
FULL = np.full((5, 7), 255, np.uint8)

SHAPES = {
    "empty": np.zeros((6, 4), np.uint8),
    "full": FULL,
    "one pixel": FULL[:1, :1],
    "one row": from_text("##.#..###"),
    "one column": from_text("##.#..###").T.copy(),
    "checkerboard": CHECKERBOARD,
    "checkerboard, other colour": 255 - CHECKERBOARD,
    "rings": rings(21, 2),
    "thin rings": rings(21, 1),
    "thin rings from the border": 255 - rings(21, 1),
    "rings across a word of 64": np.tile(rings(23, 1), (1, 6)),
    "spiral": spiral(25),
    "spiral of background": 255 - spiral(25),
    "lines of equal length": bars(5, 5, 5),
    "lines, the longest first": bars(7, 3, 5),
    "ring with a tail": from_text(
        """
        ...........
        ..###......
        .#...#.....
        .#...#.....
        ..###......
        .....#.....
        ......####.
        """
    ),
    "diagonal contact of two squares": from_text(
        """
        ###....
        ###....
        ###....
        ...###.
        ...###.
        ...###.
        """
    ),
    "hole closed by diagonals": from_text(
        """
        .#.
        #.#
        .#.
        """
    ),
    "holes that touch at a corner": from_text(
        """
        ######
        #.####
        ##.###
        ###.##
        ######
        """
    ),
    "hole at the border": from_text(
        """
        ##.##
        #...#
        #...#
        #####
        """
    ),
    "island in a lake in an island": from_text(
        """
        #########
        #.......#
        #.#####.#
        #.#...#.#
        #.#.#.#.#
        #.#...#.#
        #.#####.#
        #.......#
        #########
        """
    ),
    "two lakes, three islands": from_text(
        """
        ##############
        #......#.....#
        #.##.#.#.###.#
        #.##...#.#.#.#
        #......#.###.#
        ##############
        """
    ),
    "small solid against large hollow": from_text(
        """
        ####..........
        ####..######..
        ####..#....#..
        ####..#....#..
        ......######..
        """
    ),
}
