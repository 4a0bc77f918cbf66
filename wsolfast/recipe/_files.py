"""The recipes that come with the package, by name, and those of the user, by path."""

from functools import cache
from pathlib import Path

from wsolfast._nearest import nearest
from wsolfast.recipe._errors import RecipeError

_FOLDER = Path(__file__).resolve().parents[1] / "recipes"


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with the package, sorted."""
    return list(_recipes())


@cache
def _recipes() -> dict[str, Path]:
    found = ((path.relative_to(_FOLDER).with_suffix("").as_posix(), path) for path in _FOLDER.rglob("*.toml"))
    return dict(sorted(found))


def recipe_path(name_or_path: str | Path) -> Path:
    """Return the file behind a recipe's name, or the path itself if it is one.

    Raises:
        RecipeError: if there is neither; the message names the nearest recipe.
    """
    text = str(name_or_path)
    if text in _recipes():
        return _recipes()[text]
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise RecipeError(f"no recipe file at {path}")
    raise RecipeError(f"no recipe named {text!r}; {nearest(text, list_recipes())}")


def recipe_name(path: Path) -> str:
    """Return what a recipe is called by its file: below the package's folder by its place, elsewhere by its stem."""
    return path.relative_to(_FOLDER).with_suffix("").as_posix() if is_packaged(path) else path.stem


def is_packaged(path: Path) -> bool:
    """Return whether a recipe comes with the package."""
    return path.is_relative_to(_FOLDER)
