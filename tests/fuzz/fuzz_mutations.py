"""How whole inputs are broken: by bytes, by values of a tree, by arrays; every choice from one seed."""

from __future__ import annotations

import copy
import math
from random import Random
from typing import Any

import numpy as np

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 10**9, 10**18, 10**39, 10**400, -(10**18), 0.0, -0.0, 0.5, 1e-300, 1e300),
    *(
        -1.0,
        1e12,
        1e39,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "8",
        "nan",
        "x" * 10_000,
        "\0",
        "../..",
        "ä\u202e",
        "s4d",
    ),
    *([], [[]], [1, 2], [None], ["a"], {}, {"a": 1}, {"type": "s9"}, {"value": 1}, [[[[]]]], {"value": math.nan}),
)
"""What a field may hold instead of what it should."""
DTYPES = ("bool", "int8", "uint8", "int64", "uint64", "float16", "float32", "float64")


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def broken_bytes(data: bytes, rng: Random) -> bytes:
    """Flip, cut, insert, double, zero or swap bytes; one to three times."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        size = len(out)
        at, run = rng.randrange(size + 1), rng.choice((1, 1, 2, 4, 8, 64, 1000))
        match rng.randrange(8):
            case 0:
                for _ in range(run):
                    if size:
                        out[rng.randrange(size)] ^= 1 << rng.randrange(8)
            case 1:
                del out[at:]
            case 2:
                out[at:at] = rng.randbytes(run)
            case 3:
                out[at : at + run] = bytes(len(out[at : at + run]))
            case 4:
                out[at : at + run] = b"\xff" * len(out[at : at + run])
            case 5:
                out += out[: rng.choice((run, size))]
            case 6:
                del out[at : at + run]
            case 7:
                other = rng.randrange(size + 1)
                out[at:at] = out[other : other + run]
        if not out:
            break
    return bytes(out)


def broken_text(text: str, rng: Random) -> str:
    """A word replaced, a line doubled, dropped or moved, a bracket too many, deep nesting."""
    lines = text.splitlines() or [""]
    at = rng.randrange(len(lines))
    match rng.randrange(7):
        case 0:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 1:
            del lines[at]
        case 2:
            words = lines[at].split(" ")
            words[rng.randrange(len(words))] = str(rng.choice(NASTY))
            lines[at] = " ".join(words)
        case 3:
            lines[at] = lines[at] + rng.choice(("]", "}", '"', "=", ",", "'''", "\r", "\0", "#", "[[a]]"))
        case 4:
            lines.insert(at, "deep = " + "[" * 500 + "]" * 500)
        case 5:
            lines.insert(at, "x" * rng.choice((300, 100_000)) + " = 1")
        case 6:
            lines.insert(at, f"n = {'9' * 5000}")
    return "\n".join(lines) + "\n"


def broken_tree(tree: Any, rng: Random) -> Any:
    """A copy with one to three places replaced, dropped, renamed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return rng.choice(NASTY)
        owner, key = rng.choice(places)
        match rng.randrange(6):
            case 0 | 1 | 2:
                old = owner[key]
                owner[key] = _near(old, rng) if rng.random() < 0.5 else copy.deepcopy(rng.choice(NASTY))
            case 3:
                del owner[key]
            case 4 if isinstance(owner, dict):
                owner[f"{key}{rng.choice(('', 's', '_', 'x' * 300))}"] = owner.pop(key)
            case 5:
                owner[key] = rng.choice((deep(100), [owner[key]] * 3, {str(key): owner[key]}))
    return tree


def _near(old: Any, rng: Random) -> Any:
    """A value of the same type, further away."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return old * rng.choice((-1, 0, 2, 1000, 10**9)) + rng.choice((-1, 0, 1))
    if isinstance(old, float):
        return old * rng.choice((-1.0, 0.0, 1e-30, 1e6, 1e30, math.inf, math.nan))
    if isinstance(old, str):
        return rng.choice((old[:-1], old + "x", old.upper(), old * 50))
    return rng.choice(NASTY)


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def broken_arrays(arrays: dict[str, np.ndarray], rng: Random) -> dict[str, np.ndarray]:
    """A copy with one or two arrays changed in a value, type or shape, dropped, renamed or added."""
    out = {name: np.array(array) for name, array in arrays.items()}
    for _ in range(rng.randint(1, 2)):
        if not out:
            return {"extra": np.zeros(3)}
        name = rng.choice(sorted(out))
        array = out[name]
        match rng.randrange(9):
            case 0 | 1 | 2 if array.size and array.dtype.kind in "iuf":
                flat = array.reshape(-1)
                wide = array.dtype.kind == "f"
                bad = rng.choice((math.nan, math.inf, -math.inf, 0.0, -1.0, 1e30, 1e-30) if wide else (0, 1, 100))
                where = slice(None) if rng.random() < 0.3 else rng.randrange(flat.size)
                with np.errstate(over="ignore"):
                    flat[where] = bad
            case 3:
                with np.errstate(all="ignore"):
                    try:
                        out[name] = array.astype(rng.choice(DTYPES))
                    except (TypeError, ValueError):
                        out[name] = np.zeros(array.shape)
            case 4:
                shapes = [(), (0,), (1,), (array.size,), (*array.shape, 1), (1, *array.shape), array.shape[::-1]]
                shape = rng.choice(shapes)
                out[name] = np.resize(array, shape) if array.size or 0 in shape else np.zeros(shape)
            case 5:
                del out[name]
            case 6:
                out[name + rng.choice(("x", "/", "", " "))] = out.pop(name)
            case 7:
                out[rng.choice(("extra", "model/extra", "best/x", "optimiser/a/b", "optimiser/7/step"))] = array
            case 8 if array.ndim:
                out[name] = array[: rng.randrange(array.shape[0] + 1)]
    return out
