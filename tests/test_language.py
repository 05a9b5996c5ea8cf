"""One name, one thing."""

from __future__ import annotations

import ast
from pathlib import Path

import imc_ssm

PACKAGE = Path(imc_ssm.__file__).parent


def test_no_class_name_is_used_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_module_is_named_as_its_function() -> None:
    twice = {
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == path.stem and path.parent.name != "cli"  # commands
    }
    assert twice == set()
