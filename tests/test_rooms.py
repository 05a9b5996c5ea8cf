"""Imports run downwards only: the rooms of docs/architecture.md, walked."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "imc_ssm"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SIZE = 500
"""Lines of a file, at most."""


def drawn() -> tuple[list[str], set[str]]:
    """Rooms from top to bottom, and the leaves, as the page draws them."""
    picture = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)[0]
    rooms = re.findall(r"^  (\w+)  ", picture, re.MULTILINE)
    (leaves,) = re.findall(r"^  leaves +(.*)", picture, re.MULTILINE)
    return [room for room in rooms if room != "leaves"], set(re.findall(r"\w+", leaves))


ROOMS, LEAVES = drawn()
BESIDE = dict.fromkeys(("answers", "checkpoint", "losses", "noise"), "training")
"""Modules that serve a room and belong to it."""


def room_of(module: str) -> str:
    """The room, or leaf, of "imc_ssm.kernels.scan"."""
    part = module.split(".")[1]
    return BESIDE.get(part, part)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name != "imc_ssm":
            found[name] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Modules of the library that a file imports, inside functions and for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.module != "imc_ssm" else {f"imc_ssm.{a.name}" for a in node.names}
    return {name for name in found if name.startswith("imc_ssm.") and not name.endswith("__")}


def test_the_page_draws_every_room() -> None:
    assert {room_of(name) for name in MODULES} == {*ROOMS, *LEAVES}


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name: str) -> None:
    here = room_of(name)
    for other in imports(MODULES[name]):
        there = room_of(other)
        if there == here or there in LEAVES:
            continue
        assert here not in LEAVES, f"leaf {name} imports {other}"
        assert ROOMS.index(there) > ROOMS.index(here), f"{name} imports {other}, which is above it"


@pytest.mark.parametrize("path", [p for p in sorted(ROOT.rglob("*.py")) if ".venv" not in p.parts], ids=str)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= SIZE
