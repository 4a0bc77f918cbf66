"""A way to type the commands of the documents."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def type_in(tmp_path):
    """Type a command in an empty folder, as a reader with the package installed would; it must succeed."""

    def run(command, stdin=None):
        words = shlex.split(command)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable if words[0] == "python" else words[0], *words[1:]],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run
