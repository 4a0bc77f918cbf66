"""The species and their looks."""

from dataclasses import dataclass

HUES = {
    "red": (222, 44, 44),
    "blue": (40, 84, 220),
    "yellow": (250, 205, 30),
    "violet": (150, 50, 200),
    "lime": (176, 250, 10),
    "orange": (250, 125, 20),
    "cyan": (20, 190, 215),
    "pink": (245, 105, 175),
}
PATTERNS = ("plain", "barred", "spotted", "ringed")
BODY_COLOURS = ((150, 142, 130), (128, 112, 94), (168, 152, 122), (112, 116, 122), (146, 126, 112))


@dataclass(frozen=True)
class Part:
    """One shape of a figure, in units of the figure; u points to the head, v down."""

    kind: str  # "ellipse": (u, v, a, b); "polygon": convex, corners (u, v); "limb": (u0, v0, u1, v1, radius)
    shape: tuple
    paint: str = "body"  # "body", "wing", "head", "horn", "eye"
    beyond: float | None = None  # only where u is larger: the head of a fish is the front of its body


FAMILIES = {
    "bird": (
        Part("limb", (-0.02, 0.34, -0.04, 0.64, 0.028), "horn"),
        Part("limb", (0.12, 0.32, 0.12, 0.64, 0.028), "horn"),
        Part("polygon", ((-0.5, -0.12), (-0.46, 0.2), (-1.14, 0.22), (-1.2, -0.04)), "wing"),
        Part("ellipse", (-0.06, 0.06, 0.62, 0.36)),
        Part("ellipse", (0.3, -0.12, 0.28, 0.26)),
        Part("ellipse", (-0.22, 0.03, 0.44, 0.2), "wing"),
        Part("polygon", ((0.66, -0.5), (1.0, -0.32), (0.66, -0.24)), "horn"),
        Part("ellipse", (0.5, -0.36, 0.25, 0.23), "head"),
        Part("ellipse", (0.58, -0.42, 0.05, 0.05), "eye"),
    ),
    "fish": (
        Part("polygon", ((-0.6, -0.06), (-0.6, 0.06), (-0.96, 0.02), (-1.14, -0.42)), "wing"),
        Part("polygon", ((-0.6, -0.06), (-0.6, 0.06), (-1.14, 0.42), (-0.96, -0.02)), "wing"),
        Part("polygon", ((-0.42, -0.2), (-0.2, -0.58), (0.12, -0.54), (0.34, -0.2)), "wing"),
        Part("polygon", ((-0.1, 0.24), (0.2, 0.24), (0.0, 0.56)), "wing"),
        Part("ellipse", (0.05, 0.0, 0.8, 0.4)),
        Part("ellipse", (0.05, 0.0, 0.8, 0.4), "head", beyond=0.46),
        Part("ellipse", (0.64, -0.08, 0.055, 0.055), "eye"),
    ),
    "beetle": (
        *(
            Part("limb", (u, 0.3 * side, u + lean, 0.74 * side, 0.035), "horn")
            for u, lean in ((0.36, 0.2), (0.0, -0.04), (-0.4, -0.26))
            for side in (-1, 1)
        ),
        Part("limb", (0.86, -0.1, 1.14, -0.26, 0.025), "horn"),
        Part("limb", (0.86, 0.1, 1.14, 0.26, 0.025), "horn"),
        Part("ellipse", (-0.22, 0.0, 0.74, 0.54)),
        Part("limb", (-0.94, 0.0, 0.3, 0.0, 0.018), "wing"),
        Part("ellipse", (0.4, 0.0, 0.26, 0.42), "wing"),
        Part("ellipse", (0.7, 0.0, 0.24, 0.28), "head"),
    ),
}
SHADOW = Part("ellipse", (-0.05, 0.12, 1.0, 0.6))


def class_name(k: int) -> str:
    return f"{PATTERNS[pattern_of(k)]}_{list(HUES)[k % len(HUES)]}_{family_of(k)}"


def family_of(k: int) -> str:
    return list(FAMILIES)[k % len(FAMILIES)]


def hue_of(k: int) -> tuple[int, int, int]:
    return list(HUES.values())[k % len(HUES)]


def pattern_of(k: int) -> int:
    return (k + k // len(HUES)) % len(PATTERNS)
