"""Facts that stand beside a number."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from wsolfast.engine.run import environment

X86 = """processor\t: 0
model name\t: AMD EPYC 7B13
cpu family\t: 25
model\t\t: 1

processor\t: 1
model name\t: another core
cpu family\t: 26
model\t\t: 2
"""
ARM = "processor\t: 0\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("info", "name"), [(X86, "AMD EPYC 7B13 (family 25, model 1)"), (ARM, "a processor"), (None, "a processor")]
)
def test_a_processor_is_named(tmp_path, monkeypatch, info, name):
    file = tmp_path / "cpuinfo"
    if info is not None:
        file.write_text(info)
    monkeypatch.setattr(environment, "_CPU_INFO", file)
    monkeypatch.setattr(environment.platform, "processor", lambda: "a processor")
    assert environment.cpu_name() == name


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/usr/bin/wsolfast", "eval", "runs/my run"], "wsolfast eval 'runs/my run'"),
        (["/usr/lib/wsolfast/__main__.py", "train", "demo/spa"], "wsolfast train demo/spa"),
    ],
)
def test_the_command_is_one_that_can_be_given_again(monkeypatch, argv, command):
    monkeypatch.setattr(sys, "argv", argv)
    assert environment.describe_environment()["command"] == command


def test_an_absent_package_has_no_version():
    assert environment.package_version("numpy") == version("numpy")
    assert environment.package_version("wsolfast-of-another-world") is None
    assert None not in environment.describe_environment().values()


def test_the_commit_is_the_checkouts_own(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    checkout = tmp_path / "checkout"
    inside = checkout / "wsolfast" / "engine" / "run"
    inside.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(inside / "environment.py"))
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "of a repository that the code happens to lie in")
    assert environment.commit() is None
    (tmp_path / ".git").rename(checkout / ".git")
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert head.stdout.startswith(environment.commit())
    monkeypatch.setenv("PATH", str(Path(inside)))
    assert environment.commit() is None
