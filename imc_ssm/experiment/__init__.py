"""Studies as data: declare what is varied, run it cell by cell, compare it with a paper.

A study is a folder `experiments/NAME/` whose `study.py` defines `STUDY`:

    from imc_ssm.experiment import Experiment, Recipe, Study, ptq
    from imc_ssm.quantization import Scheme

    widths = Experiment(
        "widths",
        "Accuracy over the word length of the state",
        dimensions={"model": ("s4d-16h",), "bits": (8, 6, 4)},
        job=lambda cell: ptq(cell["model"], Scheme.uniform(state=cell["bits"])),
    )
    STUDY = Study("mine", "My study", task="digits", recipe=Recipe(), experiments=(widths,))

`imc-ssm experiment run widths` then computes it. The concepts:

- An *experiment* varies *dimensions*; `seed` is always the last one. Its *cells* are the points of this grid
  for which `job(coordinates)` is not None.
- A *job* says how a cell is computed: `full` (train in full precision), `ptq`, `qat`, `poles`, `kernel`. It is
  data, and its key is a hash of everything that decides the numbers (task, model, scheme, recipe, seed). Cells
  of any experiment that need the same job share it; all jobs of a model and seed start from the same
  full-precision training.
- The *recipe* holds the training numbers. Another recipe is another key: what was computed with the old one
  stays in the ledger and is no longer read. A field at its default is not part of the key, so that a field
  that is added later changes no key.
- The *ledger*, `results/ledger.jsonl`, has one line for every finished job. `results/EXPERIMENT.nc` and its
  figure are made from it, after every cell. Work in progress is in `runs/`, full-precision models in `models/`.
- `paper` holds published numbers (mean, deviation) by cell, in the order of the dimensions.
"""

from imc_ssm.experiment.declare import (
    Constant,
    Experiment,
    Job,
    Recipe,
    Study,
    full,
    kernel,
    poles,
    ptq,
    qat,
)
from imc_ssm.experiment.engine import Finished, run
from imc_ssm.experiment.folder import find, load_study, studies
from imc_ssm.experiment.workplace import Workplace

__all__ = [
    "Constant",
    "Experiment",
    "Finished",
    "Job",
    "Recipe",
    "Study",
    "Workplace",
    "find",
    "full",
    "kernel",
    "load_study",
    "poles",
    "ptq",
    "qat",
    "run",
    "studies",
]
