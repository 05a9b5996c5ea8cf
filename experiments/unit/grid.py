"""The update unit's forms: what state, poles and scales may cost, by accuracy and by energy.

Experiments on one task, the same for all: `rounding`, `rates`, `poles`, `scales` take one trained model after the
other and quantize it without training; `energy` prices the same schemes; where a plan says so, `rows` has the
published rows beside ours, and `qat` trains. What an experiment does not vary is that of `BASE`: everything at 8
bits, the state dithered, one range per register, poles as decay and phase. `build` makes the study of a task;
`study.py` here is that of sMNIST, that of the digits lies beside this folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study import Cost, Experiment, Job, Ptq, Qat, Recipe, Study, Train

DESIGN = "pcm-256"
"""The chip whose digital unit is priced."""
BASE: dict[str, Any] = {"granularity": "state", "rounding": "dithered", "pole_form": "log_polar"}
LITERATURE: dict[str, Any] = {"granularity": "head", "rounding": "half_even", "rounding_placement": "separate"}
RATE = 1.5
"""Largest angle of a period where heads are slow, rad: that of `Scheme.recommended`."""
ROUNDINGS = ("half_even", "stochastic", "feedback", "dithered")
FORMS: dict[str, dict[str, Any]] = {
    "cartesian": {"pole_form": "cartesian"},
    "polar": {"pole_form": "polar"},
    "log-polar": {"pole_form": "log_polar"},
    "log-polar, decay of 3 bits": {"pole_form": "log_polar", "pole_decay_bits": 3},
}
FULL, LITERATE, OURS, SLOW, RECOMMENDED = "full precision", "literature", "dithered", "slow heads", "recommended"
ROWS = (FULL, LITERATE, OURS, SLOW, RECOMMENDED)
"""The forms that are compared over words; of `unit`."""

COORDINATES = {
    "model": ("1", "Model"),
    "bits_state": ("bit", "Word length of the state"),
    "bits_poles": ("bit", "Word length of a pole's parts"),
    "rounding": ("1", "Rounding of the state"),
    "rate_limit": ("rad", "Largest angle of a period"),
    "form": ("1", "Form of the poles"),
    "scales": ("1", "Scales"),
    "granularity": ("1", "What shares a scale"),
    "words": ("1", "Word lengths"),
    "unit": ("1", "Form of the unit"),
    "seed": ("1", "Seed"),
}


@dataclass(frozen=True)
class Plan:
    """The sizes of a task's study."""

    name: str
    task: str
    models: Mapping[str, ModelConfig]
    recipe: Recipe
    small: str
    """The model of all experiments but `rows` and `qat`."""
    bits: Sequence[int]
    """Word lengths of the state."""
    bits_coarse: Sequence[int]
    """Those beside rates and scales."""
    rates: Sequence[float] = (0.0, 0.5, 1.0, RATE, 2.0)
    wide: bool = False
    """Whether `grid` has the whole product of all forms."""
    seeds: Mapping[str, int] = field(default_factory=lambda: {"s4d-16h": 5})
    """Models, and how many seeds of each there are."""
    recipes: Mapping[str, Recipe] = field(default_factory=dict)


def scheme(**options: Any) -> Scheme:
    """Everything at 8 bits in the forms of `BASE`, but for `options`; a `rate_limit` of 0 is none."""
    given = BASE | options
    if given.get("rate_limit") == 0:
        del given["rate_limit"]
    return Scheme.uniform(**given)


WORDS: dict[str, tuple[str, int, int]] = {
    "W8A8 A8 x8": ("w8a8", 8, 8),
    "W4A6 A8 x8": ("w4a6", 8, 8),
    "W4A6 A6 x6": ("w4a6", 6, 6),
    "W4A6 A4 x5": ("w4a6", 4, 5),
}
"""Rows: the named scheme, bits of A, bits of x. W8A8 and W4A6 as in Zhao et al. 2025, Table III."""


def unit(form: str) -> dict[str, Any]:
    """The options of a form of the unit."""
    if form == LITERATE:
        return LITERATURE
    best = BASE | {"rounding_placement": "joint", "weight_rounding": "outputs"}
    if form == OURS:
        return best
    best |= {"rate_limit": RATE, "pole_multiplier_bits": 12}
    return best if form == SLOW else best | {"scales": "power_of_two"}  # `Scheme.recommended`


def row(cell: Mapping[str, Any]) -> Scheme:
    """A published row, in a form of the unit."""
    name, poles, state = WORDS[cell["words"]]
    return Scheme.named(name, poles=poles, state=state, **unit(cell["unit"]))


def build(plan: Plan, figures: Any) -> Study:
    """The study of a plan."""
    small = plan.small

    def of(cell: Mapping[str, Any]) -> Scheme:
        """From the coordinates of `rounding`, `rates`, `poles`, `scales` and `grid`."""
        given = {k: v for k, v in cell.items() if k in ("rounding", "rate_limit", "scales", "granularity")}
        given |= {"state": cell["bits_state"]} if "bits_state" in cell else {}
        given |= {"poles": cell["bits_poles"]} if "bits_poles" in cell else {}
        return scheme(**given, **FORMS[cell["form"]]) if "form" in cell else scheme(**given)

    def ptq(cell: Mapping[str, Any]) -> Job:
        return Ptq(small, of(cell))

    def price(cell: Mapping[str, Any]) -> Job:
        return Cost(Ptq(small, of(cell)), DESIGN)

    def experiment(name: str, title: str, grid: dict[str, Sequence[Any]], draw: Any, **more: Any) -> Experiment:
        more = {"seeds": plan.seeds[small]} | more
        return Experiment(name, title, grid, more.pop("job", ptq), figure=draw, **more)

    priced = {
        "job": price,
        "variables": ("energy_recurrence", "updates"),
        "headline": figures.unit_energy,
        "seeds": 1,
    }
    rates = {"rounding": ("half_even", "dithered"), "rate_limit": plan.rates, "bits_state": plan.bits_coarse}
    scales = {
        "rate_limit": (0.0, RATE),
        "granularity": ("head", "state"),
        "scales": ("free", "power_of_two"),
        "bits_state": plan.bits_coarse,
    }
    found = [
        experiment(
            "rounding",
            "Rounding of the state, one range per head and per register",
            {"granularity": ("head", "state"), "rounding": ROUNDINGS, "bits_state": plan.bits},
            figures.rounding,
        ),
        experiment("rates", "Slow heads", rates, figures.rates),
        experiment(
            "poles",
            "Form of the poles, beside a dithered 8-bit state",
            {"form": tuple(FORMS), "bits_poles": (4, 5, 6, 8)},
            figures.poles,
        ),
        experiment("scales", "Scales that are powers of two", scales, figures.scales),
        experiment("energy_rates", "Energy with slow heads", rates, figures.energy_rates, **priced),
        experiment("energy_scales", "Energy by scales", scales, figures.energy_scales, **priced),
    ]
    if plan.wide:
        found.append(
            experiment(
                "grid",
                "All forms",
                {
                    "granularity": ("head", "state"),
                    "scales": ("free", "power_of_two"),
                    "form": ("cartesian", "log-polar"),
                    "rounding": ROUNDINGS,
                    "bits_state": plan.bits,
                },
                figures.grid,
            )
        )
    for model, seeds in plan.seeds.items():
        short = model.partition("-")[2]
        found += [
            experiment(
                f"rows_{short}",
                f"Published rows without training, {model}",
                {"model": (model,), "words": tuple(WORDS), "unit": ROWS},
                figures.rows,
                job=lambda cell: Train(cell["model"]) if cell["unit"] == FULL else Ptq(cell["model"], row(cell)),
                seeds=seeds,
            ),
            experiment(
                f"qat_{short}",
                f"Published rows after QAT, {model}",
                {"model": (model,), "words": ("W4A6 A6 x6", "W4A6 A4 x5"), "unit": (OURS,)},
                figures.qat,
                job=lambda cell: Qat(cell["model"], row(cell)),
                variables=("accuracy", "accuracy_validation", "loss_train"),
                seeds=seeds,
            ),
        ]
    return Study(
        plan.name,
        f"A digital unit beyond the literature's: {plan.task}",
        plan.task,
        plan.recipe,
        tuple(found),
        models=plan.models,
        recipes=plan.recipes,
        coordinates=COORDINATES,
        source="Zhao et al. 2025, arXiv:2506.12480 (rows and models)",
    )
