"""Images of a training split that are held out for validation: spread over the classes, the same for every order."""

from collections.abc import Sequence
from fractions import Fraction

from wsolfast.recipe import RecipeError
from wsolfast.types import derive_seed


def hold_out(image_ids: Sequence[str], labels: Sequence[int], amount: int | float, seed: int, where: str) -> list[int]:
    """Choose images to hold out; at least one of each class stays.

    Each class gives its share, rounded down or up so that all of them come to the amount: up for those that lose most
    by rounding down, of equal ones for those that the seed draws. Which images of a class it
    is follows from the seed and their ids alone, so a data set that lists them in another order gives the same ones.

    Args:
        image_ids: of all images.
        labels: of all images.
        amount: a number of images, or a share of them in (0, 1).
        seed: of the choice.
        where: what an error calls the amount.

    Returns:
        Indices of the images, in increasing order.

    Raises:
        RecipeError: if the classes cannot give so many, or the share is less than one image.
    """
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    wanted = round(amount * len(image_ids)) if isinstance(amount, float) else amount
    most = len(image_ids) - len(members)
    if not 1 <= wanted <= most:
        raise RecipeError(
            f"{where}: {amount} comes to {wanted} of {len(image_ids)} images; expected 1 to {most}, "
            f"because one of each of {len(members)} classes has to stay"
        )
    # Fractions, so that no share depends on rounding.
    shares = {label: Fraction(wanted * len(found), len(image_ids)) for label, found in members.items()}
    given = {label: min(int(share), len(members[label]) - 1) for label, share in shares.items()}
    while (missing := wanted - sum(given.values())) > 0:
        # The largest remainders first; a class that has no image to spare leaves its part to the others.
        able = [label for label in members if given[label] < len(members[label]) - 1]
        able.sort(key=lambda label: (given[label] - shares[label], derive_seed(f"{seed}/held out/{label}")))
        for label in able[:missing]:
            given[label] += 1
    chosen: list[int] = []
    for label, found in members.items():
        drawn = sorted(found, key=lambda index: derive_seed(f"{seed}/held out/{image_ids[index]}"))
        chosen += drawn[: given[label]]
    return sorted(chosen)
