"""Folders that a tool fills, and goes on filling when it is called again."""

import json
from pathlib import Path

from wsolfast.data._files import is_stray
from wsolfast.data.atomic import write_bytes
from wsolfast.data.errors import DataError


def claim(folder: Path, name: str, settings: dict) -> None:
    """Write the settings into a new or empty folder, or compare them with those of the call that began it.

    Args:
        folder: is made.
        name: of the file that holds the settings.
        settings: of values that JSON can say; all else becomes text.

    Raises:
        DataError: if the folder was begun with other settings, or holds anything else.
    """
    file, settings = folder / name, json.loads(json.dumps(settings, default=str))
    if not file.exists():
        if folder.is_dir() and any(not is_stray(entry.name) for entry in folder.iterdir()):
            raise DataError(f"{folder}: is not empty, and nothing of this command's; choose another folder")
        write_bytes(file, lambda stream: stream.write((json.dumps(settings, indent=2) + "\n").encode()))
        return
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise DataError(f"{file}: not readable; choose another folder, or delete this one")
    odd = [f"{key} {there.get(key)} and not {value}" for key, value in settings.items() if there.get(key) != value]
    if odd:
        raise DataError(f"{folder}: was begun with other settings ({', '.join(odd)}); choose another folder")
