"""Lines of arithmetic on a page, `name = expression = value unit  what for`: evaluated, checked, written anew."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LINE = re.compile(r"^(?P<name>[a-z]\w*) = (?P<rest>\S.*?)(?P<note>  .*)?$")
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
END = re.compile(rf"^(?:(?P<expression>.+) = )?(?P<value>{NUMBER})(?: (?P<unit>[A-Za-z][\w/]*))?$")
COLUMN = 66
"""Longest line whose note stands in the column of its block."""
BINARY: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "ceil": math.ceil,
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "max": max,
    "min": min,
    "sqrt": math.sqrt,
}


@dataclass(frozen=True)
class Line:
    """One line: `expression` is None where the value is given."""

    name: str
    expression: str | None
    value: float
    printed: str
    unit: str
    note: str

    def text(self, printed: str) -> str:
        """The line with a value in the place of that printed, without its note."""
        middle = "" if self.expression is None else f"{self.expression} = "
        return f"{self.name} = {middle}{printed} {self.unit}".rstrip()


def lines(text: str) -> Iterator[tuple[str, Line | None]]:
    """Every line of a text, with what it says where it is arithmetic in a block of code."""
    inside = False
    for row in text.splitlines():
        if row.startswith("```"):
            inside = not inside
        found = LINE.match(row) if inside else None
        if found is None:
            yield row, None
            continue
        end = END.match(found["rest"])
        if end is None:
            raise ValueError(f"cannot read {row!r}; allowed is `name = expression = value unit  what for`")
        value = float(end["value"].replace(",", ""))
        note = found["note"] or ""
        yield row, Line(found["name"], end["expression"], value, end["value"], end["unit"] or "", note)


def evaluated(text: str) -> dict[str, float]:
    """All names of a text with their values: given ones as they stand, others from their expressions."""
    known: dict[str, float] = {}
    for _, line in lines(text):
        if line is not None:
            if line.name in known:
                raise ValueError(f"{line.name!r} stands twice")
            known[line.name] = line.value if line.expression is None else value_of(line.expression, known)
    return known


def rewritten(text: str, given: dict[str, str] | None = None) -> str:
    """The text with every computed value as it follows from the expressions, the `given` ones as they are, and the
    notes of a block in one column."""
    known: dict[str, float] = {}
    out: list[str] = []
    block: list[tuple[str, str]] = []
    for row, line in [*lines(text), ("", None)]:
        if line is None:
            out += [*_aligned(block), row]
            block = []
            continue
        printed = (given or {}).get(line.name, line.printed)
        if line.expression is not None:
            printed = short(value_of(line.expression, known))
            known[line.name] = value_of(line.expression, known)
        else:
            known[line.name] = float(printed.replace(",", ""))
        block.append((line.text(printed), line.note.strip()))
    return "\n".join(out[:-1]) + "\n" * text.endswith("\n")


def _aligned(block: list[tuple[str, str]]) -> list[str]:
    """Notes behind their lines, in a column that lines longer than `COLUMN` leave out of account."""
    column = 2 + max((len(head) for head, _ in block if len(head) <= COLUMN), default=0)
    return [
        f"{head:<{column}}{note}".rstrip() if len(head) < column else f"{head}  {note}".rstrip()
        for head, note in block
    ]


def value_of(expression: str, known: dict[str, float]) -> float:
    """The value of an expression of numbers, known names, + - * / **, and a few functions."""

    def walk(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.Name) and node.id in known:
            return known[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            return BINARY[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -walk(node.operand)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            return FUNCTIONS[node.func.id](*map(walk, node.args))
        raise ValueError(f"{ast.unparse(node)!r} in {expression!r} is not arithmetic on known names")

    return walk(ast.parse(expression, mode="eval").body)


def short(value: float) -> str:
    """Four digits, whole numbers whole."""
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value)}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if digits <= 8 else f"{value:.3e}"
