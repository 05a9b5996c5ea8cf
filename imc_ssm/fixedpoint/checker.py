"""Replays a bundle of integers: `python check.py [FOLDER]`; NumPy is all it needs (docs/integer_model.md).

It reads bundle.json and bundle.safetensors, computes every signal of the golden sequences from the codes of their
inputs, operator by operator in int64, and says which signals differ from those that the bundle holds.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,type-arg"

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def tensors(path: Path) -> dict[str, Any]:
    """Name -> array of a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    kinds = {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F32": "<f4"}
    made = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = (8 + size + place for place in entry["data_offsets"])
            made[name] = np.frombuffer(data[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return made


def shifted(v, s, how="half_even"):
    """v / 2^s, rounded to an integer."""
    half = np.where(s > 0, np.int64(1) << np.maximum(s - 1, 0), 0)
    if how == "half_even":
        half = np.where(s > 0, half - 1 + ((v >> s) & 1), 0)
    elif how == "half_away":
        half = np.where(s > 0, half - (v < 0), 0)
    return (v + half) >> s


def stored(k, v):
    """The output's codes of rounded, centred values."""
    return np.clip(v + k["output_zero"], k["output_low"], k["output_high"])


def linear(k, how, ends, x):
    v = shifted(k["align"] * (x - k["source_zero"]), k["align_shift"])
    total = k["multiplier"] * (v @ (k["weight"] - k["weight_zero"][:, None]).T) + k["bias"]
    return stored(k, shifted(total, k["shift"])) if "output_zero" in k else total


def add(k, how, ends, x, y):
    total = k["first"] * (x - k["first_zero"]) + k["second"] * (y - k["second_zero"])
    return stored(k, shifted(total, k["shift"]))


def scale_add(k, how, ends, y, u):
    total = k["first"] * (y - k["first_zero"]) + k["second"] * (k["d"] - k["d_zero"]) * (u - k["second_zero"])
    return stored(k, shifted(total, k["shift"]))


def look_up(k, how, ends, x):
    rows = np.arange(len(k["table"])) if len(k["table"]) > 1 else 0
    return k["table"][rows, x - k["source_low"]]


def gate(k, how, ends, x):
    value, opened = np.split(x, 2, -1)
    total = k["multiplier"] * (value - k["source_zero"]) * look_up(k, how, ends, opened)
    return stored(k, shifted(total, k["shift"]))


def mean(k, how, ends, x):
    at = [list(k["steps"]).index(end) for end in ends]
    total = np.stack([(row[:end] - k["source_zero"]).sum(0) for row, end in zip(x, ends, strict=True)])
    return stored(k, shifted(k["multiplier"][at] * total, k["shift"][at]))


def last(k, how, ends, x):
    return x[np.arange(len(x)), ends - 1]


def affine(k, how, ends, x):
    return stored(k, shifted(k["gain"] * (x - k["source_zero"]) + k["offset"], k["shift"]))


def norm(k, how, ends, x):
    v = shifted(k["align"] * (x - k["source_zero"]), k["align_shift"])
    if k["centred"]:
        v = v - shifted(v.sum(-1, keepdims=True) * k["reciprocal"], k["reciprocal_shift"])
    w = np.maximum((v * v).sum(-1, keepdims=True) + k["eps"], 1)
    n = np.vectorize(lambda number: (int(number).bit_length() - 1) // 2)(w)
    m = np.where(n >= 11, w >> np.maximum(2 * n - 22, 0), w << np.maximum(22 - 2 * n, 0))
    first = k["root_table"][(m >> 15) - 128]
    rest = 3 * (1 << 46) - m * shifted(first * first, 8)
    z = shifted(v * shifted(first * shifted(rest, 22), 17), n + 2)
    return stored(k, shifted(k["gain"] * z + k["offset"], k["shift"]))


def product(a, x):
    """Complex products, real and imaginary part last."""
    real = a[..., 0] * x[..., 0] - a[..., 1] * x[..., 1]
    return np.stack([real, a[..., 0] * x[..., 1] + a[..., 1] * x[..., 0]], -1)


def words(how, update, shape):
    """16-bit words of dithered or stochastic rounding; update (head,), shape (head, state)."""
    i, j = np.arange(2 * shape[0] * shape[1]).reshape(*shape, 2), update[:, None, None]
    if how["rounding"] == "dithered":
        return (40503 * j + 49471 * (i >> 1) + 16384 * (i & 1)) % 65536
    x = (0x9E3779B9 * j + 0x85EBCA6B * i) % 2**32
    for right, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> right)).astype(np.uint64) * np.uint64(factor) % np.uint64(2**32)).astype(np.int64)
    return (x ^ (x >> 16)) >> 16


def update(k, how, x, residual, drive, number):
    """The next centred states (batch, head, state, 2) and residuals from b u or b v; number (head,) of updates."""
    one, two = k["m_a"][..., None] * product(k["a"], x), k["m_b"][..., None] * drive
    s, s_b, low, high = (k[name][..., None] for name in ("shift", "shift_b", "low", "high"))
    if how["rounding"] == "feedback":
        up, down = np.maximum(s - how["residual_bits"], 0), np.maximum(how["residual_bits"] - s, 0)
        total = one + two + ((residual << up) >> down)
        return np.clip(total >> s, low, high), ((total - (total >> s << s)) >> up) << down
    if how["rounding"] in ("dithered", "stochastic"):
        w = words(how, number, s.shape[:2])

        def cut(v, s, w):
            return (v + (((2 * w + 1) << np.maximum(s - 17, 0)) >> np.maximum(17 - s, 0))) >> s
    else:
        w = 0

        def cut(v, s, w):
            return shifted(v, s, how["rounding"])

    if how["rounding_placement"] == "joint":
        return np.clip(cut(one + two, s, w), low, high), residual
    parts = np.clip(cut(one, s, w), low, high) + np.clip(cut(two, s_b, 65535 - w), low, high)
    return np.clip(parts, low, high), residual


def nearest(how):
    """What an output is rounded by: the state's rounding, half to even where that is another kind."""
    return how["rounding"] if how["rounding"].startswith("half") else "half_even"


def scan(k, how, ends, u):
    shape = (len(u), *k["m_a"].shape, 2)
    x, residual = np.zeros(shape, np.int64), np.full(shape, 1 << how["residual_bits"] >> 1)
    sums, out = np.zeros(shape[:2], np.int64), np.empty(u.shape, np.int64)
    for t in range(u.shape[1]):
        sums = sums + u[:, t] - k["source_zero"]
        due = (t + 1) % k["periods"] == 0
        after = update(k, how, x, residual, k["b"] * sums[:, :, None, None], t // k["periods"])
        x, residual = (np.where(due[:, None, None], *z) for z in zip(after, (x, residual), strict=True))
        sums = np.where(due, 0, sums)
        total = (k["m_c"] * product(k["c"], x)[..., 0]).sum(-1)
        out[:, t] = stored(k, shifted(k["m_y"] * total, k["shift_y"], nearest(how)))
    return out


def states(k, how, ends, v):
    shape = (len(v), *k["m_a"].shape, 2)
    x, residual = np.zeros(shape, np.int64), np.full(shape, 1 << how["residual_bits"] >> 1)
    out = np.empty(v.shape, np.int64)
    for t in range(v.shape[1]):
        parts = np.stack(np.split(v[:, t], 2, -1), -1) - k["source_zero"][:, None]
        drive = product(k["b"], parts[:, :, None])
        x, residual = update(k, how, x, residual, drive, np.full(shape[1], t))
        out[:, t] = np.concatenate([x[:, :, 0, part] + k["state_zero"] for part in (0, 1)], -1)
    return out


def gated(k, how, ends, z, v):
    low, high = k["output_low"] - k["output_zero"], k["output_high"] - k["output_zero"]
    given = np.clip(shifted(k["candidate"] * (v - k["candidate_zero"]), k["candidate_shift"]), low, high)
    h, out = np.zeros(given[:, 0].shape, np.int64), np.empty(given.shape, np.int64)
    for t in range(v.shape[1]):
        change = k["gate"] * ((z[:, t] - k["gate_zero"]) * (given[:, t] - h))
        h = np.clip(h + shifted(change, k["gate_shift"], how["rounding"]), low, high)
        out[:, t] = h + k["output_zero"]
    return out


KINDS: dict[str, Any] = {
    "linear": linear,
    "sum": add,
    "scale add": scale_add,
    "table": look_up,
    "gate": gate,
    "mean": mean,
}
KINDS |= {"last": last, "affine": affine, "norm": norm, "scan": scan, "states": states, "gated": gated}


def turned(x, ends):
    """From the end of each sequence to its start; what follows the end stays."""
    time = np.arange(x.shape[1])
    places = np.where(time < ends[:, None], ends[:, None] - 1 - time, time)
    return np.take_along_axis(x, places[..., None], 1)


def replay(head: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    """Signal -> codes, from those of the input."""
    signals, ends = {head["input"]: held["golden/" + head["input"]].astype(np.int64)}, held["golden_lengths"]
    for number, op in enumerate(head["operators"]):
        prefix = f"operator/{number}/"
        k = {name[len(prefix) :]: v.astype(np.int64) for name, v in held.items() if name.startswith(prefix)}
        inputs = [signals[name] for name in op["inputs"]]
        if op["reverse"]:
            inputs = [turned(x, ends) for x in inputs]
        made = KINDS[op["kind"]](k, op["how"], ends, *inputs)
        signals[op["output"]] = turned(made, ends) if op["reverse"] else made
    return signals


def check(folder):
    """Signals whose codes differ, with how many of how many; empty: none."""
    head = json.loads((folder / "bundle.json").read_text("utf-8"))
    path = folder / "bundle.safetensors"
    if hashlib.sha256(path.read_bytes()).hexdigest() != head["sha256"]:
        raise SystemExit(f"{path} is not the file that bundle.json was written with; copy both again")
    held = tensors(path)
    signals = replay(head, held)
    wrong = {name: int(np.sum(made != held["golden/" + name])) for name, made in signals.items()}
    return signals, {name: count for name, count in wrong.items() if count}


if __name__ == "__main__":
    made, wrong = check(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    for name, count in wrong.items():
        print(f"{name}: {count} of {made[name].size} codes differ")
    print(f"{len(made)} signals, {sum(v.size for v in made.values())} codes, {sum(wrong.values())} differ")
    sys.exit(bool(wrong))
