"""Counter-based random numbers: a draw depends on its coordinates alone, never on what was drawn before."""

import numpy as np


def raw_draws(seed: int, stream: int, position: tuple[int, int], count: int) -> list[int]:
    """Draw ``count`` 64-bit integers at ``position`` of ``stream``; the same on every machine and NumPy version.

    Philox4x64 keyed by (seed, stream); only its raw output is used, because NumPy's distributions may change.
    """
    generator = np.random.Philox(key=[seed & 0xFFFFFFFFFFFFFFFF, stream], counter=[0, 0, *position])
    return generator.random_raw(count).tolist()


def unit_draws(seed: int, stream: int, position: tuple[int, int], count: int) -> list[float]:
    """Draw the same as multiples of 2**-53 in [0, 1)."""
    return [(draw >> 11) * 2.0**-53 for draw in raw_draws(seed, stream, position, count)]


def byte_draws(seed: int, stream: int, position: tuple[int, int], count: int) -> np.ndarray:
    """Draw ``count`` bytes, a uint8 array."""
    draws = np.array(raw_draws(seed, stream, position, -(-count // 8)), dtype="<u8")
    return draws.view(np.uint8)[:count]
