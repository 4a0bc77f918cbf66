"""Report on the tensors that a backbone took from a checkpoint."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LoadReport:
    """Names of the tensors of a checkpoint and a backbone that matched, and of those that were left."""

    source: str  # the file or enum, as it was given
    prefix: str  # what the names in the file carry in front
    matched: tuple[str, ...]  # names in the backbone
    left_in_file: tuple[str, ...]  # names that nothing reads
    left_in_backbone: tuple[str, ...]  # counters that checkpoints may lack
    classes: int | None  # of the classifier that was taken along
    folded_bn: bool  # its batch norms are part of the convolutions

    def __str__(self) -> str:
        prefix = f" under {self.prefix!r}" if self.prefix else ""
        parts = [f"{self.source}: matched {len(self.matched)} tensors{prefix}"]
        if self.classes is not None:
            parts.append(f"took its classifier of {self.classes} classes")
        if self.left_in_file:
            parts.append(f"left {shorten(self.left_in_file)} in the file")
        if self.left_in_backbone:
            parts.append(f"left {len(self.left_in_backbone)} batch counters of the backbone as they were")
        if self.folded_bn:
            parts.append("batch norms are folded into the convolutions: train with freeze_bn")
        return "; ".join(parts)


def shorten(names: tuple[str, ...], shown: int = 3) -> str:
    """Return the first ``shown`` names and the number of the others."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
