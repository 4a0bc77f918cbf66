"""SPOL's pseudo labels written with NumPy and OpenCV, one contour at a time: the truth for both presets."""

import cv2
import numpy as np

from wsolfast.ops import GaussianPrior


def gaussian_of(weights: np.ndarray, covariance_scale: float) -> np.ndarray:
    """Return equations 5 and 6 of the paper, without the density's factor, for the weighted pixel positions."""
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]].astype(np.float64)
    total = weights.sum()
    mean_x, mean_y = (weights * x).sum() / total, (weights * y).sum() / total
    dx, dy = x - mean_x, y - mean_y
    sxx, syy, sxy = (covariance_scale * (weights * a).sum() / total for a in (dx * dx, dy * dy, dx * dy))
    rho = sxy / np.sqrt(sxx * syy)
    theta = dx**2 / sxx - 2 * rho * dx * dy / np.sqrt(sxx * syy) + dy**2 / syy
    return np.exp(-theta / (2 * (1 - rho**2)))


def contour_regions(mask: np.ndarray, min_area: float) -> list[np.ndarray]:
    """Return the filled contours of a uint8 mask, holes' contours included."""
    regions = []
    for contour in cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)[0]:
        if cv2.contourArea(contour) >= min_area:
            filled = np.zeros_like(mask)
            cv2.drawContours(filled, [contour], -1, 1, cv2.FILLED)
            regions.append(filled.astype(bool))
    return regions


def numpy_labels(cam: np.ndarray, size: tuple[int, int], prior: GaussianPrior) -> np.ndarray:
    """Turn a map [h, w] into labels [H, W]; with both sources, a gate, and at least one contour where asked for."""
    scaled = np.maximum(cam.astype(np.float64), 0)
    scaled = scaled / (scaled.max() + 1e-6)
    resized = cv2.resize(scaled, size[::-1], interpolation=cv2.INTER_LINEAR)
    band = np.where((resized >= prior.weight_low) & (resized <= prior.weight_high), resized, 0)
    if prior.per_contour:
        regions = contour_regions((band > 0).astype(np.uint8), prior.min_area)
        gaussian = np.max([gaussian_of(band * region, prior.covariance_scale) for region in regions], axis=0)
    else:
        gaussian = gaussian_of(band, prior.covariance_scale)
    labels = np.full(size, 255, np.uint8)
    labels[resized < prior.background_threshold] = 0
    labels[(resized > prior.object_threshold) | (gaussian > prior.gate)] = 1
    return labels
