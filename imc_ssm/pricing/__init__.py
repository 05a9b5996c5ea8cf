"""Laws of energy, time and area: arrays, their lines, inputs and converters, over constants with ranges."""

from __future__ import annotations

from imc_ssm.pricing.arrays import ArrayPrices, ArraySpec, prices
from imc_ssm.pricing.intervals import Bounds, Values, bounds, nominal, scenarios, swings
from imc_ssm.pricing.presets import PRESETS, Conversion, Preset
from imc_ssm.pricing.tiles import TilePrices, nominal_tiles, spec_of, tile_prices

__all__ = [
    "PRESETS",
    "ArrayPrices",
    "ArraySpec",
    "Bounds",
    "Conversion",
    "Preset",
    "TilePrices",
    "Values",
    "bounds",
    "nominal",
    "nominal_tiles",
    "prices",
    "scenarios",
    "spec_of",
    "swings",
    "tile_prices",
]
