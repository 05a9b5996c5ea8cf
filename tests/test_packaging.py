"""What is installed: the tested versions are allowed ones, and aihwkit is needed for its tiles alone."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12")


def asked() -> list[Requirement]:
    """Every requirement of the package and of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


def pinned() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applies(requirement: Requirement, python: str) -> bool:
    environment = {**default_environment(), "python_version": python, "platform_system": "Linux"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def test_every_requirement_is_tested_at_one_version_that_it_allows() -> None:
    for python in PYTHONS:
        pins = {r.name: r for r in pinned() if applies(r, python)}
        needed = [r for r in asked() if applies(r, python)]
        for requirement in needed:
            if requirement.name == "jupyterlab":  # to look at notebooks with: no test does
                continue
            (pin,) = pins[requirement.name].specifier
            assert pin.operator == "==", pin
            assert pin.version in requirement.specifier, (python, requirement, pin)


WITHOUT = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "aihwkit":
            raise ModuleNotFoundError("no aihwkit here")

sys.meta_path.insert(0, Refuse())
import imc_ssm
names = [module.name for module in pkgutil.walk_packages(imc_ssm.__path__, "imc_ssm.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), "aihwkit" in sys.modules)
"""


def test_every_room_is_imported_without_aihwkit() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, found = done.stdout.split()
    assert int(count) > 60
    assert found == "False"
