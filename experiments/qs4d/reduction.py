"""What quantization-aware training saves, after QS4D (Siegel et al. 2025, arXiv:2507.06079).

    imc-ssm experiment run qs4d/parts qs4d/sizes
    imc-ssm experiment run qs4d-smnist/parts qs4d-smnist/sizes --device cuda

`parts`: one part of the model at few bits, the rest in full precision; calibrated alone, or trained like that from
the first step ("scratch": from random parameters, with learned ranges). `sizes`: heads and states against word
lengths; QAT starts from the model in full precision. What is smaller at the same accuracy, in the measures of the
literature, is `complexity.py`.

The paper also quantizes dt. Here no part has it: a chip keeps the discrete A and B, which dt has gone into. Its
words are those of "A" and "B".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Rule, Scheme
from imc_ssm.study import Experiment, Job, Ptq, Qat, Recipe, Train
from imc_ssm.training import TrainConfig

FULL_PRECISION = 32
PARTS: dict[str, tuple[dict[str, Any], ...]] = {
    "A": ({"path": "poles"},),
    "B": ({"path": "b"},),
    "C": ({"path": "c"},),
    "state": ({"path": "state"},),
    "activations": ({"kind": "activation"},),
    "mixing": ({"path": "blocks.*.weight"},),
    "coder": ({"path": "encoder.weight"}, {"path": "decoder.weight"}),
    "all": ({"kind": "parameter"}, {"path": "bias", "bits": 16}, {"kind": "activation"}, {"kind": "state"}),
}
"""Name -> what has few bits. The rest is in full precision, but for what an integer recurrence reads and writes:
16 bits where its state has few."""


@dataclass(frozen=True)
class Reduction:
    """The sizes of a task's study."""

    model: str
    """Of `parts`."""
    scratch: TrainConfig
    """Training from random parameters with few bits."""
    base: ModelConfig
    """What the shapes of `sizes` are changed in."""
    recipe: Recipe | None = None
    """Of `sizes`; None: the study's, whose model is then the usual shape."""
    heads: Sequence[int] = (4, 8, 16, 32)
    n_state: Sequence[int] = (4, 16, 64)
    usual: tuple[int, int] = (16, 64)
    """Heads and states of the cross that is swept."""
    whole: bool = False
    """The whole grid of shapes, or one row and one column of it."""
    bits: Sequence[int] = (8, 6, 4, 3, 2)
    trained: Sequence[int] = (4, 3, 2)
    """Word lengths of a part that are trained from scratch."""
    trained_all: Sequence[int] = (8, 6, 4)
    """And those of all parts together."""
    words: Sequence[int] = (FULL_PRECISION, 8, 4)
    """Word lengths of everything in `sizes`; below 6 poles and states keep 6 bits."""
    seeds: int = 5
    seeds_sizes: int = 5


def named(plan: Reduction, heads: int, n_state: int) -> str:
    """A shape's name."""
    usual = plan.recipe is None and (heads, n_state) == plan.usual
    return plan.model if usual else f"s4d-{heads}h-{n_state}n"


def shapes(plan: Reduction) -> dict[str, ModelConfig]:
    """The models of `sizes`."""
    return {
        named(plan, heads, states): plan.base.with_(heads=heads, n_state=states)
        for heads in plan.heads
        for states in plan.n_state
        if plan.whole or heads == plan.usual[0] or states == plan.usual[1]
    }


def part_scheme(part: str, bits: int) -> Scheme:
    """`bits` for a part, full precision for the rest."""
    return Scheme(rules=tuple(Rule.parse({"bits": bits} | where) for where in PARTS[part]))


def words_scheme(bits: int) -> Scheme:
    """Everything at few bits, the recurrence at 6 or more."""
    loop = max(bits, 6)
    return Scheme.uniform(poles=loop, state=loop, weights=bits, activations=loop)


def part_cell(plan: Reduction, cell: Mapping[str, Any]) -> Job | None:
    """One part; full precision has a cell of its own."""
    part, bits = cell["part"], cell["bits"]
    if bits == FULL_PRECISION:
        return Train(plan.model) if part == "all" and cell["training"] == "ptq" else None
    scheme = part_scheme(part, bits)
    if cell["training"] == "ptq":
        return Ptq(plan.model, scheme)
    if bits not in (plan.trained_all if part == "all" else plan.trained):
        return None
    untrained = Train(plan.model, plan.scratch.with_(epochs=0))
    ranges = (
        "learned" if part in ("state", "activations", "all") else "calibrated"
    )  # parameters have none to learn
    return Qat(untrained, scheme, plan.scratch.with_(ranges=ranges))


def size_cell(plan: Reduction, cell: Mapping[str, Any]) -> Job | None:
    """A shape at a word length."""
    name, bits = named(plan, cell["heads"], cell["n_state"]), cell["bits"]
    if name not in shapes(plan):
        return None
    return Train(name) if bits == FULL_PRECISION else Qat(name, words_scheme(bits))


def experiments(plan: Reduction, figures: Any = None) -> tuple[Experiment, ...]:
    """Those of a task; without heads to sweep, the first alone."""
    parts = Experiment(
        "parts",
        "One part at few bits: calibrated, or trained from scratch",
        {"part": tuple(PARTS), "bits": (FULL_PRECISION, *plan.bits), "training": ("ptq", "scratch")},
        lambda cell: part_cell(plan, cell),
        seeds=plan.seeds,
        figure=None if figures is None else figures.parts,
    )
    if not plan.heads:
        return (parts,)
    sizes = Experiment(
        "sizes",
        "Heads and states against word lengths",
        {"heads": plan.heads, "n_state": plan.n_state, "bits": plan.words},
        lambda cell: size_cell(plan, cell),
        seeds=plan.seeds_sizes,
        figure=None if figures is None else figures.sizes,
    )
    return parts, sizes


def digits() -> Reduction:
    """64 steps; a training takes seconds."""
    pretraining = TrainConfig(epochs=60, batch=32, weight_decay=0.05)
    return Reduction(
        "s4d-16h",
        pretraining,
        ModelConfig(heads=16, dt_min=0.0125, dt_max=0.5),
    )


def smnist() -> Reduction:
    """784 steps; for a GPU."""
    from imc_ssm.layers import PRESETS

    return Reduction(
        "s4d-16h",
        TrainConfig(epochs=6, batch=64, learning_rate=1e-2),
        PRESETS["s4d-16h"],
        Recipe(
            pretraining=TrainConfig(epochs=20, batch=256, learning_rate=1e-2),
            mode="convolution",
            qat=TrainConfig(epochs=2, batch=64, learning_rate=5e-3),
        ),
        heads=(8, 16, 32, 64),
        n_state=(16, 64),
        whole=True,
        trained=(4,),
        trained_all=(8, 4),
        seeds=1,
        seeds_sizes=1,
    )


def fsdd() -> Reduction:
    """Spoken digits, raw audio at 8 kHz; for a GPU."""
    base = ModelConfig(heads=64, n_state=16, norm="batch", dropout=0.1, dt_min=0.001, dt_max=0.1)
    return Reduction(
        "s4d-64h-16",
        TrainConfig(epochs=8, batch=16, learning_rate=5e-3, weight_decay=0.05),
        base,
        heads=(),
        bits=(8, 6, 4),
        trained=(4,),
        trained_all=(8, 6),
        seeds=1,
    )


def extras(plan: Reduction, figures: Any = None) -> dict[str, Any]:
    """What `robustness.build` takes to have these experiments too."""
    models = shapes(plan) if plan.heads else {}
    return {
        "more": experiments(plan, figures),
        "models": models,
        "recipes": {} if plan.recipe is None else dict.fromkeys(models, plan.recipe),
    }
