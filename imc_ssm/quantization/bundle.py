"""A model as a bundle of integers, for hardware and firmware to check themselves against.

A folder with three files: `bundle.json` (operators in order, what each does, formats), `bundle.safetensors` (its
integers, and the codes of every signal of a few golden sequences) and `check.py`, which replays these with NumPy
alone. docs/integer_model.md has the layout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.errors import FileError, shown
from imc_ssm.files import atomic_path, canonical_json
from imc_ssm.fixedpoint import Format, checker, input_codes, operations_of, run
from imc_ssm.layers import Classifier, classifier_of, tensor_of
from imc_ssm.quantization.wrapping import formats_of, words_of

__all__ = ["IntegerBundle", "export_integers", "load_integers"]

KIND, VERSION = "imc-ssm integers", 1
_KEYS = {"kind": str, "version": int, "name": str, "sha256": str, "input": str, "logits": dict, "operators": list}
_KEYS |= {"signals": dict, "parameters": dict}
_OPERATOR = {"name": str, "kind": str, "how": dict, "inputs": list, "output": str, "reverse": bool}

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class IntegerBundle:
    """What a bundle's two files hold."""

    head: dict[str, Any]
    """bundle.json"""
    arrays: dict[str, Array]
    """bundle.safetensors"""

    def __repr__(self) -> str:
        count = len(self.arrays["golden_lengths"])
        operators = len(self.head["operators"])
        return f"IntegerBundle of {self.head['name']!r}: {operators} operators, {count} golden sequences"

    def check(self) -> dict[str, int]:
        """Signal -> how many codes of the golden sequences differ when they are computed again; empty: none."""
        made = checker.replay(self.head, self.arrays)
        wrong = {name: int(np.sum(codes != self.arrays[f"golden/{name}"])) for name, codes in made.items()}
        return {name: count for name, count in wrong.items() if count}


def _small(codes: Array) -> Array:
    """Integers in the shortest of 8, 16, 32 and 64 bits that holds all of them."""
    low, high = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    kinds = (np.int8, np.int16, np.int32, np.int64)
    kind = next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    return np.ascontiguousarray(codes, kind)


def _entry(fmt: Format) -> dict[str, Any]:
    """A format as JSON has it; a float32 scale is exact there."""
    scale = np.asarray(fmt.scale, np.float64).tolist()
    known = {"bits": fmt.bits, "symmetric": fmt.symmetric, "scale": scale}
    bounds = {"zero_point": fmt.zero_point, "low": fmt.low, "high": fmt.high}
    return known | {name: np.asarray(v).tolist() for name, v in bounds.items()}


def export_integers(
    model: Classifier,
    folder: str | Path,
    values: Tensor | Array,
    lengths: Tensor | Array | None = None,
    *,
    name: str = "model",
) -> IntegerBundle:
    """Write a quantized model's integers to a folder, and the codes of every signal for golden sequences.

    `values` (n, time, channel), `lengths` (n,) their valid steps: of a mean over time the constants of these
    lengths are written. The folder then has bundle.json, bundle.safetensors and check.py.

        >>> import imc_ssm, torch
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> model = imc_ssm.quantize(model, "uniform", torch.rand(8, 12, 1))
        >>> imc_ssm.export_integers(model, "integers", torch.rand(2, 12, 1)).check()
        {}

    Raises `FormatError` naming the first path in full precision, `ImcSsmError` for sequences that do not fit or
    ranges that follow the batch, `FileError` if the folder cannot be written.
    """
    model = classifier_of(model, "export_integers")
    given = tensor_of(values, "the golden sequences")
    model.check(given, None, "the golden sequences")
    graph, formats, words = model.graph(), formats_of(model), words_of(model)
    batch, time, _ = given.shape
    ends = np.full(batch, time) if lengths is None else np.asarray(lengths)
    source = graph.operators[0].output.name
    found = run(graph, formats, words, input_codes(formats[source], given.numpy()), ends)
    # What lies behind the ends is the code of 0 in the golden input, as `run` makes it.
    arrays = {f"golden/{signal}": _small(codes) for signal, codes in found.codes.items()}
    arrays["golden_lengths"] = ends.astype(np.int64)
    arrays |= {f"word/{path}": _small(codes) for path, codes in words.items() if codes.dtype.kind == "i"}
    arrays |= {f"word/{path}": codes for path, codes in words.items() if path.endswith(".pole_grid")}
    operators: list[dict[str, Any]] = []
    for op, form in operations_of(graph, formats, words):
        if form is None:
            continue
        constants = form.constants(sorted({int(end) for end in ends}))
        arrays |= {f"operator/{len(operators)}/{part}": _small(v) for part, v in constants.items()}
        operators.append(
            {
                "name": op.name,
                "kind": form.kind,
                "how": form.how,
                "inputs": [signal.name for signal in op.inputs],
                "output": op.output.name,
                "reverse": op.reverse,
            }
        )
    kinds = graph.kinds()
    head: dict[str, Any] = {
        "kind": KIND,
        "version": VERSION,
        "name": name,
        "input": source,
        "logits": {"signal": operators[-1]["output"], "unit": found.unit},
        "operators": operators,
        "signals": {s.name: _entry(formats[s.name]) for s in graph.signals if s.name in formats},
        "parameters": {p: _entry(f) for p, f in formats.items() if kinds[p] == "parameter"},
    }
    _write(Path(folder), head, arrays)
    return load_integers(folder)


def _write(folder: Path, head: dict[str, Any], arrays: Mapping[str, Array]) -> None:
    from safetensors.numpy import save

    data: bytes = save(dict(arrays))
    text = canonical_json({**head, "sha256": hashlib.sha256(data).hexdigest()}, what="the head of a bundle")
    files = {
        "bundle.safetensors": data,
        "bundle.json": (json.dumps(json.loads(text), indent=1) + "\n").encode(),
        "check.py": Path(checker.__file__).read_bytes(),
    }
    for name, content in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)


def load_integers(folder: str | Path) -> IntegerBundle:
    """Read a bundle and replay its golden sequences.

    Raises `FileError` for one that is missing, changed, incomplete or of a newer version, or whose integers do not
    give the codes that it holds.
    """
    at = Path(folder)
    try:
        head = json.loads((at / "bundle.json").read_text("utf-8"))
        data = (at / "bundle.safetensors").read_bytes()
    except OSError as error:
        raise FileError(
            f"cannot read a bundle of integers in {folder}: {error.strerror or error}; give the folder that "
            "export_integers wrote"
        ) from None
    except ValueError as error:
        raise _broken(folder, f"bundle.json cannot be read: {error}") from None
    if not isinstance(head, dict) or any(type(head.get(key)) is not kind for key, kind in _KEYS.items()):
        raise _broken(folder, "bundle.json lacks what a bundle has")
    if head["kind"] != KIND or head["version"] != VERSION:
        raise FileError(
            f"{folder}: this is {shown(head['kind'])} of version {shown(head['version'])}, needed is {KIND!r} of "
            f"version {VERSION}; update imc-ssm or write it again"
        )
    if hashlib.sha256(data).hexdigest() != head["sha256"]:
        raise _broken(folder, "bundle.safetensors does not match its checksum")
    try:
        bundle = IntegerBundle(head, checker.tensors(at / "bundle.safetensors"))
        for op in head["operators"]:
            if not isinstance(op, dict) or any(type(op.get(key)) is not kind for key, kind in _OPERATOR.items()):
                raise TypeError(f"operator {shown(op)}")
        if not bundle.arrays.keys() >= {f"golden/{name}" for name in head["signals"]} | {"golden_lengths"}:
            raise KeyError("codes of a signal")
        wrong = bundle.check()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _broken(folder, f"{type(error).__name__}: {shown(str(error))}") from None
    if wrong:
        names = ", ".join(f"{count} of {signal}" for signal, count in list(wrong.items())[:3])
        raise _broken(folder, f"its integers give other codes than it holds: {names}")
    return bundle


def _broken(folder: str | Path, why: str) -> FileError:
    return FileError(f"{folder}: the bundle of integers is broken ({why}); write or copy it again")
