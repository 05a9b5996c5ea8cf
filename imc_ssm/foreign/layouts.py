"""What the keys of a state-spaces/s4 checkpoint mean: which part of a classifier, of which block.

Two containers and four blocks are known, in any combination; "i" is the number of a block:

    container   example.py        encoder.*    s4_layers.i.<block>       norms.i.*                decoder.*
                SequenceModel     encoder.0.*  model.layers.i.layer.*    model.layers.i.norm.*    decoder.0.*

    block       s4d.py            D (H,)   kernel.{C, log_dt, log_A_real, A_imag}
                S4, version 3     D (1, H) kernel.kernel.{C, B, log_dt, inv_A_real, A_imag}  (inv_w_real, w_imag)
                S4Block, 4        layer.D  layer.kernel.{C, B, inv_dt, A_real, A_imag}
                all               output_linear[.0].{weight, bias}

Source: https://github.com/state-spaces/s4 (models/s4/s4d.py, example.py, src/models/s4/s4.py of version 3,
src/models/sequence of version 4), read for the names and formulas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Keys", "sorted_keys"]

_BLOCK = r"(?:model\.)?(?:s4_layers|layers)\.(?P<block>\d+)\."
_KERNEL = r"(?:layer\.){0,2}kernel\.(?:kernel\.)?"
_PAIR = r"(?P<part>weight|bias)$"
_NORM = r"(?:norm\.)?(?:ln\.)?(?P<part>weight|bias|running_mean|running_var|num_batches_tracked)$"

_MEANINGS = tuple(
    (role, re.compile(pattern))
    for role, pattern in (
        ("encoder", rf"(?:model\.)?encoder(?:\.\d+)?\.{_PAIR}"),
        ("decoder", rf"(?:model\.)?decoder(?:\.\d+)?(?:\.output_transform)?\.{_PAIR}"),
        ("D", rf"{_BLOCK}(?:layer\.){{0,2}}D$"),
        ("C", rf"{_BLOCK}{_KERNEL}C$"),
        ("B", rf"{_BLOCK}{_KERNEL}B$"),
        ("step", rf"{_BLOCK}{_KERNEL}(?P<name>log_dt|inv_dt)$"),
        ("real", rf"{_BLOCK}{_KERNEL}(?P<name>log_A_real|inv_A_real|inv_w_real|A_real)$"),
        ("imaginary", rf"{_BLOCK}{_KERNEL}(?P<name>A_imag|w_imag)$"),
        ("mixing", rf"{_BLOCK}(?:layer\.)?output_linear\.(?:0\.)?{_PAIR}"),
        ("norm", rf"(?:model\.)?norms\.(?P<block>\d+)\.{_NORM}"),
        ("norm", rf"{_BLOCK}norm\.{_NORM}"),
        ("final norm", rf"(?:model\.)?norm\.{_NORM}"),
    )
)
_FOREIGN = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"kernel\.(P|Q|p|q)$", "the low-rank part of S4 (DPLR, NPLR); only diagonal models, S4D, are read"),
        (
            r"kernel\.(l_kernel|omega|z|L)$",
            "the kernel length of S4 (DPLR, NPLR); only diagonal models, S4D, are read",
        ),
        (r"(input_gate|output_gate|input_linear)\.", "a gated or bottleneck S4 block, which no block here is"),
        (r"(reverse_layer|bidirectional_linear)\.", "a bidirectional block that concatenates both directions"),
        (r"weight_(g|v)$|parametrizations", "weight normalisation; fold it with remove_weight_norm first"),
        (
            r"norm\.(norm\.)?(m|s)$",
            "a scalar LayerNorm, whose shift goes through the deviation; no norm here does that",
        ),
        (r"\.residual\.", "a residual with weights of its own; here it is a plain sum"),
        (r"embedding", "an embedding of tokens; here the encoder is a matrix for real inputs"),
        (r"\.pool\.", "pooling between blocks, which no block here has"),
    )
)


@dataclass
class Keys:
    """Where every part stands: (role, part) of the model, and of each block."""

    model: dict[str, str] = field(default_factory=dict)
    """"encoder.weight", "decoder.bias", "final norm.weight", ... -> key."""
    blocks: list[dict[str, str]] = field(default_factory=list)
    """The same of each block: "C", "step", "mixing.weight", "norm.bias", ..."""
    left: list[str] = field(default_factory=list)
    """Keys of no part known, with what they would be."""


def sorted_keys(keys: Iterable[str]) -> Keys:
    """Which key is what; blocks by their numbers."""
    found, blocks = Keys(), dict[int, dict[str, str]]()
    for key in keys:
        for role, pattern in _MEANINGS:
            match = pattern.match(key)
            if match is not None:
                named = match.groupdict()
                name = role if named.get("part") is None else f"{role}.{named['part']}"
                place = found.model if "block" not in named else blocks.setdefault(int(named["block"]), {})
                if name in place:
                    found.left.append(f"{key} (the same part as {place[name]})")
                else:
                    place[name] = key
                break
        else:
            meaning = next((text for pattern, text in _FOREIGN if pattern.search(key)), "unknown")
            found.left.append(f"{key} ({meaning})")
    found.blocks = [blocks[number] for number in sorted(blocks)]
    return found
