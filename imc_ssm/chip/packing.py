"""Where the parts of matrices lie on tiles: one part a tile, or several side by side; how much of them is used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from imc_ssm.devices import Chip, device_names
from imc_ssm.errors import DesignError

__all__ = ["Placed", "Spot", "check_fit", "check_tiles", "pack", "tiles_of", "utilisation"]

Block = tuple[int, int]


class Placed(Protocol):
    """What sits on tiles: a mapped matrix."""

    @property
    def parts(self) -> Sequence[tuple[Block, Block]]:
        """(rows, columns) of each part that has to lie on one tile."""


@dataclass(frozen=True)
class Spot:
    """Where one part of a matrix lies."""

    tile: int
    """Number of the tile on the chip."""
    row: int
    """Its first word line."""
    column: int
    """Its first column (signed output)."""


def pack(matrices: Sequence[Placed], chip: Chip) -> list[list[Spot]]:
    """For each matrix the places of its parts.

    Without `Design.packing` every part has a tile of its own, at its corner. With it, parts are laid in shelves,
    tallest first, each on the first tile that has room (first-fit decreasing height; Coffman et al., SIAM J.
    Comput. 9:808 (1980)). Parts share word and bit lines, but not devices: the matrices of a tile run one after
    the other, and rows that are not driven add no current.
    """
    rows, columns, slices = chip.design.rows, chip.design.columns, chip.design.slices
    sizes = [
        (m, p, row[1] - row[0], slices * (column[1] - column[0]))
        for m, matrix in enumerate(matrices)
        for p, (row, column) in enumerate(matrix.parts)
    ]
    out: list[list[Spot]] = [[Spot(0, 0, 0)] * len(matrix.parts) for matrix in matrices]
    if not chip.design.packing:
        for tile, (m, p, _, _) in enumerate(sizes):
            out[m][p] = Spot(tile, 0, 0)
        return out
    shelves: list[tuple[int, int, int, int]] = []  # tile, first row, height, columns taken
    filled: list[int] = []  # rows taken of each tile
    for m, p, height, width in sorted(sizes, key=lambda size: (-size[2], -size[3], size[0], size[1])):
        for i, (tile, top, room, taken) in enumerate(shelves):
            if height <= room and taken + width <= columns:
                out[m][p] = Spot(tile, top, taken)
                shelves[i] = (tile, top, room, taken + width)
                break
        else:
            tile = next((t for t, used in enumerate(filled) if used + height <= rows), len(filled))
            if tile == len(filled):
                filled.append(0)
            out[m][p] = Spot(tile, filled[tile], 0)
            shelves.append((tile, filled[tile], height, width))
            filled[tile] += height
    return out


def tiles_of(matrices: Sequence[Placed], chip: Chip) -> int:
    """How many tiles all `matrices` take together."""
    return 1 + max((place.tile for places in pack(matrices, chip) for place in places), default=-1)


def utilisation(matrices: Sequence[Placed], chip: Chip) -> float:
    """Share of the weight places of the tiles in use that hold a weight (or a slice of one)."""
    design = chip.design
    used = sum(
        (row[1] - row[0]) * design.slices * (column[1] - column[0])
        for matrix in matrices
        for row, column in matrix.parts
    )
    return used / (tiles_of(matrices, chip) * design.rows * design.columns)


def check_fit(matrices: Iterable[Placed], chip: Chip) -> int:
    """The tiles all `matrices` need together; `DesignError` if the chip has fewer."""
    needed = tiles_of(list(matrices), chip)
    check_tiles(needed, chip, "model")
    return needed


def check_tiles(needed: int, chip: Chip, what: str) -> None:
    """`DesignError` if `what` needs more tiles than the chip has."""
    design = chip.design
    if needed > design.tiles:
        others = ", ".join(name for name in device_names("designs") if name != design.name)
        packed = "" if design.packing else ", packing = true"
        raise DesignError(
            f"{what} needs {needed} tiles of {design.rows} x {design.columns}, design {design.name!r} has "
            f"{design.tiles} ({needed - design.tiles} too few); use a smaller model{packed} or a larger design "
            f"(shipped: {others})"
        )
