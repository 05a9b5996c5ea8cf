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

    def text(self, value: float) -> str:
        """The line with a value in the place of that printed."""
        tail = f" {self.unit}" if self.unit else ""
        return f"{self.name} = {self.expression} = {short(value)}{tail}{self.note}"


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
    """The text with every computed value as it follows from the expressions, and the `given` ones as they are."""
    known: dict[str, float] = {}
    out = []
    for row, line in lines(text):
        if line is not None and line.expression is not None:
            known[line.name] = value_of(line.expression, known)
            row = line.text(known[line.name])
        elif line is not None:
            own = (given or {}).get(line.name, line.printed)
            row = row.replace(f"= {line.printed}", f"= {own}", 1)
            known[line.name] = float(own.replace(",", ""))
        out.append(row)
    return "\n".join(out) + "\n" * text.endswith("\n")


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
