"""Numbers in sentences."""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return the number with its noun: ``1 epoch``, ``1,200 images``.

    Args:
        number: of things.
        noun: of one thing.
        plural: of several, if it does not only end with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def left_out(images: int) -> str:
    """Return how many images cannot be read, as a sentence."""
    return f"{count(images, 'unreadable image')} {'is' if images == 1 else 'are'} left out"


def duration(seconds: float) -> str:
    """Return a time as ``h:mm:ss``, as bars on a terminal show it."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
