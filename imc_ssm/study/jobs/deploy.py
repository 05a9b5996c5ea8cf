"""Accuracy of programmed chips over time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import xarray as xr
from pydantic import BeforeValidator, Field, field_validator

from imc_ssm.datasets import SequenceDataset
from imc_ssm.study.chips import TIMES, Design, described, evaluate, loaded, place
from imc_ssm.study.jobs.base import FORWARD, Bench, Dimension, FromModel, Variable
from imc_ssm.training import accuracy
from imc_ssm.units import moments

if TYPE_CHECKING:
    from imc_ssm.study.declare import Study

__all__ = ["Deploy"]

TIME = Dimension("time", "Time after programming", "s")


def _drawn(data: SequenceDataset, sequences: int) -> SequenceDataset:
    """With so many of its test sequences, always the same ones."""
    test = data.splits["test"]
    if sequences >= len(test):
        return data
    kept = np.sort(np.random.default_rng(0x7E57).choice(test, sequences, replace=False))
    return replace(data, splits={**data.splits, "test": kept})


class Deploy(FromModel):
    """Accuracy of chips that a quantized model is programmed onto, beside that of its digital reference."""

    kind = "deploy"
    word = "evaluate"
    variables = (
        Variable("accuracy_digital", "percent", "Accuracy with digital matrices", test=True),
        Variable(
            "accuracy", "percent", "Accuracy of programmed chips", (Dimension("chip", "Chip"), TIME), test=True
        ),
    )
    update_s = 1.6e-9

    design: Annotated[Design | None, BeforeValidator(loaded)]
    """Chip design: a name, a path, or the design itself; None: the digital reference alone, in any precision."""
    chips: int = Field(10, ge=1)
    """Chips that are programmed; a chip of a number and seed is always the same."""
    times: Annotated[tuple[float, ...], BeforeValidator(moments)] = Field(TIMES, min_length=1)
    """Times after programming, s; also words, "1h"."""
    sequences: int | None = Field(None, ge=1)
    """Test sequences, drawn once for a study: the same on every chip and in every cell; None: all."""

    @field_validator("design")
    @classmethod
    def _quantized(cls, design: Design | None, info: Any) -> Design | None:
        start = info.data.get("start")
        if design is not None and start is not None and getattr(start, "scheme", None) is None:
            raise ValueError("a chip takes a quantized model: start from Ptq or Qat")
        return design

    @property
    def label(self) -> str:
        """The chips."""
        many = "chip" if self.chips == 1 else "chips"
        return "" if self.design is None else f"on {self.chips} {many}"

    def settings(self, study: Study) -> dict[str, Any]:
        """The design with all that is in it, chips and times."""
        if self.design is None:
            return {"design": None, "sequences": self.sequences}
        own = {"design": self._design, "chips": self.chips, "times": list(self.times)}
        return own | {"sequences": self.sequences}

    @functools.cached_property
    def _design(self) -> dict[str, Any]:
        assert self.design is not None
        return described(self.design)

    def tested(self, shape: Mapping[str, Any]) -> int:
        """All, or as many as are drawn."""
        there = super().tested(shape)
        return there if self.sequences is None else min(self.sequences, there)

    def work(self, study: Study, shape: Mapping[str, Any]) -> float:
        """The test sequences on every chip at every time."""
        runs = 1 if self.design is None else 1 + self.chips * len(self.times)
        return FORWARD * float(runs * self.tested(shape))

    def run(self, bench: Bench) -> xr.Dataset:
        """Compile, program and classify, chip after chip."""
        stored, labels = bench.start(), {"time": self.times}
        data = bench.data if self.sequences is None else _drawn(bench.data, self.sequences)
        if self.design is None:
            reached = accuracy(stored.model, data.split("test"))
            none = np.full((0, len(self.times)), np.nan)
            return self.dataset({"accuracy_digital": reached, "accuracy": none}, labels)
        placed = place(stored.model, self.design, *bench.calibration(), name=self.name)
        found = evaluate(
            placed,
            data,
            self.chips,
            self.times,
            seed=bench.seed,
            progress=bench.progress,
            checkpoint=bench.checkpoint,
        )
        return self.dataset({v.name: found[v.name].values for v in self.variables}, labels)
