"""The noise of the tiles' product: which numbers, and that they are normal and independent."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy import stats

from imc_ssm.fixedpoint.normal import philox
from imc_ssm.kernels import tile_product
from imc_ssm.kernels.plain_tile import normals

STEP = 2.0**-20
"""Resolution at which the product lets its noise be seen, in deviations."""


def drawn(seeds: list[int], first: int, products: int, outputs: int) -> np.ndarray:
    """The compiled product's standard normal numbers (chip, product, output)."""
    chips = len(seeds)
    y = tile_product(
        torch.zeros(1, products, 1),
        torch.zeros(chips, 1, outputs),
        full_scale=1.0,
        step_in=1.0,
        codes_in=(-1, 1),
        codes_out=(-(2**23), 2**23),
        factor=torch.full((chips, outputs), STEP),
        spread=1 / STEP,
        seed=torch.tensor(seeds),
        position=first,
    )
    return y.numpy()


@cache
def many() -> np.ndarray:
    """(4 chips, 78,125 products, 32 outputs): 10^7 numbers of neighbouring seeds."""
    return drawn([100, 101, 102, 103], 0, 78_125, 32).astype(np.float64)


def test_the_numbers_are_those_of_the_formula() -> None:
    """Philox as `fixedpoint.normal` has it, Box and Muller in double precision; both implementations."""
    seeds, first, products, outputs = [0, 7, -3, 2**62 + 5, 2**33 - 1], 2**33 - 100, 300, 11
    number, group = np.arange(first, first + products)[:, None], np.arange(3)[None]
    for chip, seed in enumerate(seeds):
        words = philox((number & 0xFFFFFFFF, number >> 32, group, 0), seed % 2**64)
        w = [np.broadcast_to(word, (products, 3)).astype(np.float64) for word in words]
        parts = []
        for one, two in (w[:2], w[2:]):
            radius = np.sqrt(-2 * np.log((one // 2 + 0.5) / 2**31))
            angle = np.pi / 2 * (two // 4 + 0.5) / 2**30
            parts += [
                radius * np.cos(angle) * (1 - 2 * (two % 2)),
                radius * np.sin(angle) * (1 - 2 * (two // 2 % 2)),
            ]
        expected = np.stack(parts, axis=-1).reshape(products, -1)[:, :outputs]
        found = drawn(seeds, first, products, outputs)[chip]
        assert np.abs(found - expected).max() < 0.5 * STEP + 2e-6
        reference = normals(torch.tensor(seeds), first, products, outputs)[chip].numpy()
        assert np.abs(reference - expected).max() < 2e-6


def test_moments() -> None:
    z = many().ravel()
    n = len(z)
    assert n == 10_000_000
    assert abs(z.mean()) < 4.5 / np.sqrt(n)
    assert abs(z.var() - 1) < 4.5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4.5 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4.5 * np.sqrt(96 / n)
    assert abs((z**6).mean() - 15) < 4.5 * np.sqrt((10395 - 225) / n)


def test_distribution() -> None:
    """Kolmogorov-Smirnov over all numbers, and of each place in a counter's four."""
    z = many()
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
    for place in range(4):
        assert stats.kstest(z[0, :, place::4].ravel(), "norm").pvalue > 1e-4


def test_tails_reach_six_deviations() -> None:
    """Counts beyond 3 ... 5 deviations are binomial; the largest of 10^7 lies where it must; the bound is 6.66."""
    z = np.abs(many().ravel())
    for beyond in (3.0, 3.5, 4.0, 4.5, 5.0):
        expected = 2 * stats.norm.sf(beyond)
        assert stats.binomtest(int((z > beyond).sum()), len(z), expected).pvalue > 1e-4
    # P(max < 4.6) = 2e-19 and P(max > 6.3) = 3e-3 would be another matter.
    assert 4.6 < z.max() < 6.66
    tail = z[z > 4.0]
    scaled = stats.norm.sf(tail) / stats.norm.sf(4.0)
    assert stats.kstest(scaled, "uniform").pvalue > 1e-4


def test_independence() -> None:
    """Between products, outputs, neighbouring seeds, and of the sizes (z^2) as well."""
    z = many()
    for of in (z, (z**2 - 1) / np.sqrt(2)):
        pairs = {
            "next product": (of[:, 1:], of[:, :-1]),
            "16 products on": (of[:, 16:], of[:, :-16]),
            "64 products on": (of[:, 64:], of[:, :-64]),
            "next output": (of[..., 1:], of[..., :-1]),
            "two outputs on": (of[..., 2:], of[..., :-2]),
            "four outputs on": (of[..., 4:], of[..., :-4]),
            "next seed": (of[1:], of[:-1]),
            "pair of one counter": (of[..., 0::2], of[..., 1::2]),
        }
        for name, (one, two) in pairs.items():
            r = float((one * two).mean())
            assert abs(r) < 4.5 / np.sqrt(one.size), name


def test_seeds_of_64_bits_and_later_products_are_others() -> None:
    one = drawn([5, 5 + 2**32, -(2**62)], 0, 50, 8)
    assert np.unique(one).size > 0.99 * one.size
    assert np.unique(np.stack([drawn([5], first, 50, 8) for first in (0, 2**32, 2**40)])).size > 0.99 * 1200
