"""SPOL's pseudo labels written with NumPy and OpenCV, one contour at a time: the truth for the preset "released"."""

import cv2
import numpy as np


def gaussian_of(weights: np.ndarray, covariance_scale: float) -> np.ndarray:
    """Equations 5 and 6 of the paper, without the density's factor, for the weighted pixel positions."""
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]].astype(np.float64)
    total = weights.sum()
    mean_x, mean_y = (weights * x).sum() / total, (weights * y).sum() / total
    dx, dy = x - mean_x, y - mean_y
    sxx, syy, sxy = (covariance_scale * (weights * a).sum() / total for a in (dx * dx, dy * dy, dx * dy))
    rho = sxy / np.sqrt(sxx * syy)
    theta = dx**2 / sxx - 2 * rho * dx * dy / np.sqrt(sxx * syy) + dy**2 / syy
    return np.exp(-theta / (2 * (1 - rho**2)))


def contour_regions(mask: np.ndarray, min_area: float) -> list[np.ndarray]:
    """The filled contours of a uint8 mask, holes' contours included."""
    regions = []
    for contour in cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)[0]:
        if cv2.contourArea(contour) >= min_area:
            filled = np.zeros_like(mask)
            cv2.drawContours(filled, [contour], -1, 1, cv2.FILLED)
            regions.append(filled.astype(bool))
    return regions


def released_labels(cam: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One map [h, w] to labels [H, W]; the band holds at least one contour."""
    scaled = np.maximum(cam.astype(np.float64), 0)
    scaled = scaled / (scaled.max() + 1e-6)
    resized = cv2.resize(scaled, size[::-1], interpolation=cv2.INTER_LINEAR)
    band = np.where((resized >= 0.1) & (resized <= 0.5), resized, 0)
    regions = contour_regions((band > 0).astype(np.uint8), 20)
    prior = np.max([gaussian_of(band * region, 0.1) for region in regions], axis=0)
    labels = np.full(size, 255, np.uint8)
    labels[resized < 0.01] = 0
    labels[(resized > 0.25) | (prior > 0.25)] = 1
    return labels
