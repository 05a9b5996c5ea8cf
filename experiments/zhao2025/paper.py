"""The paper's numbers: mean and deviation over five seeds, in percent."""

from __future__ import annotations

SOURCE = "Zhao et al., Quantizing Small-Scale State-Space Models for Edge AI, 2025, arXiv:2506.12480"

TABLE1 = {
    ("s4d-16h",): (97.200, 0.250),
    ("s4d-64h",): (98.792, 0.119),
    ("s4d-256h",): (99.248, 0.066),
    ("s4d-512h",): (99.270, 0.061),
}
TABLE3 = {
    ("s4d-16h", "FP"): (97.20, 0.25),
    ("s4d-16h", "PTQ W4A6 A8 x8"): (29.36, 14.58),
    ("s4d-16h", "W8A8"): (92.64, 0.62),
    ("s4d-16h", "W4A6 A16 x16"): (96.59, 0.30),
    ("s4d-16h", "W4A6 A8 x8"): (88.39, 1.40),
    ("s4d-16h", "W4A6 A6 x6"): (57.04, 3.13),
    ("s4d-64h", "FP"): (98.79, 0.12),
    ("s4d-64h", "PTQ W4A6 A8 x8"): (39.46, 14.98),
    ("s4d-64h", "W8A8"): (97.66, 0.30),
    ("s4d-64h", "W4A6 A16 x16"): (98.62, 0.08),
    ("s4d-64h", "W4A6 A8 x8"): (95.99, 0.56),
    ("s4d-64h", "W4A6 A6 x6"): (84.21, 2.53),
}
MEMORY_SAVING = {
    ("s4d-16h", "PTQ W4A6 A8 x8"): 82.96,
    ("s4d-16h", "W8A8"): 76.55,
    ("s4d-16h", "W4A6 A16 x16"): 73.54,
    ("s4d-16h", "W4A6 A8 x8"): 82.96,
    ("s4d-16h", "W4A6 A6 x6"): 85.31,
    ("s4d-64h", "PTQ W4A6 A8 x8"): 84.05,
    ("s4d-64h", "W8A8"): 76.29,
    ("s4d-64h", "W4A6 A16 x16"): 76.70,
    ("s4d-64h", "W4A6 A8 x8"): 84.05,
    ("s4d-64h", "W4A6 A6 x6"): 85.89,
}
