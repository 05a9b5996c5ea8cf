"""Macros of a public table, each described by its row alone: what somebody gets who has no paper at hand.

`table.csv` are facts of Shanbhag and Roy, "Comprehending In-memory Computing Trends via Proper Benchmarking", CICC
2022, doi:10.1109/CICC53496.2022.9772817, UIUC-IMC-Benchmarking (MIT), Benchmarking_Data.csv at 0da87bc: its analog
macros of SRAM, ReRAM and PCM with energy of an invocation; without the families of the study, digital ones, those
that sum over columns, rows whose columns do not hold their converters, and further supplies of the same macro.

The table has no kind of cell or converter. By rule: SRAM is capacitive where it computes by charge redistribution
(QR), else it discharges; conversions of at most 4 bits are current-sense amplifiers', longer ones a SAR's; inputs
of several bits in one invocation are amplitudes. All else is the product's default.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from imc_ssm.costs import Macro

HERE = Path(__file__).parent
SOURCE = (
    "as tabulated by Shanbhag and Roy, doi:10.1109/CICC53496.2022.9772817, UIUC-IMC-Benchmarking (MIT) at 0da87bc"
)


def rows() -> list[dict[str, str]]:
    with (HERE / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def described(row: dict[str, str]) -> Macro:
    """A row as a macro, by the rules above."""
    out_bits, joined = math.ceil(float(row["out_bits"])), int(row["columns_joined"])
    published = {"energy": float(row["energy_pJ"]) * 1e-12, "scope": "bank, one invocation; measured"}
    published["source"] = f"{row['paper']}, {SOURCE}"
    if row["time_ns"]:
        published["latency"] = float(row["time_ns"]) * 1e-9
    data: dict[str, Any] = {
        "name": row["key"],
        "source": published["source"],
        "device": row["memory"],
        "rows": int(row["rows"]),
        "columns": int(row["columns"]),
        "rows_on": int(row["rows_on"]),
        "columns_on": int(row["converters"]) * joined,
        "columns_per_weight": joined,
        "columns_per_conversion": joined,
        "node": float(row["node_nm"]) * 1e-9,
        "in_bits": int(row["in_bits"]),
        "weight_bits": math.ceil(float(row["weight_bits"])),
        "out_bits": out_bits,
        "coding": "bit-serial" if row["in_bits"] == "1" else "amplitude",
        "adc": "sense" if out_bits <= 4 else "sar",
        "published": published,
    }
    if row["memory"] == "SRAM":
        data["cell"] = "capacitive" if row["compute"] == "QR" else "discharge"
    if row["supply_V"]:
        data["supply"] = float(row["supply_V"])
    return Macro.parse(data)
