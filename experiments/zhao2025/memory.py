"""The words that a model keeps while it runs, as the memory savings of Zhao et al. 2025 count them."""

from __future__ import annotations

from dataclasses import dataclass

from imc_ssm.fixedpoint.formats import MAX_BITS
from imc_ssm.layers import Classifier, ModelConfig, S4DConfig
from imc_ssm.quantization.scheme import Scheme

__all__ = ["MemoryWord", "MemoryWords", "memory_saving", "memory_words"]

FULL = 32
"""Bits of a word in full precision."""


@dataclass(frozen=True)
class MemoryWord:
    """`count` words of `bits` each."""

    name: str
    count: int
    bits: int


@dataclass(frozen=True)
class MemoryWords:
    """All words of a model."""

    words: tuple[MemoryWord, ...]

    @property
    def count(self) -> int:
        """Number of words."""
        return sum(word.count for word in self.words)

    @property
    def bits(self) -> int:
        """Bits of all words together."""
        return sum(word.count * word.bits for word in self.words)


def memory_words(model: ModelConfig | Classifier, scheme: Scheme | None) -> MemoryWords:
    """Parameters and run-time words of a model under a scheme; None: in full precision, 32 bits a word.

    With H heads, n = N/2 complex states, D inputs and K classes:

        per layer   A, B, C 2 H n each;  D H;  mixing 2 H^2;  state x 2 H n
        once        encoder D H;  decoder K H;  u H (kept for the residual);  y H (y, y + D u and the GELU in
                    place);  mixing output 2 H (the GLU in place);  Re(C x) H n, only where the state is not
                    integer: the integer unit sums its products as they come
        biases      H + 2 H per layer + K

    A part without bits takes 32. The step dt is in A and B and takes no word. Scales and zero points are not
    counted either: few for each head, two constants for each state where states have formats of their own
    (`imc_ssm.costs` counts them). Layers run one after the other, so what is not a state is there once.

    The list is inferred from the eight memory savings printed in Table III of Zhao et al. 2025
    (arXiv:2506.12480): 5,434 words of 32 bits at 16 heads and 27,850 at 64 heads (the parameters but dt, and 100
    words a head: 64 states, 32 products, 4 activations), biases of 32 bits in every scheme. The paper does not
    print its own list; the 32 words a head that only full precision has are what the numbers ask for, and that
    they are the products is our reading. It explains all eight to their last digit, in percent:

        heads   W4A6 A8 x8      W8A8            W4A6 A16 x16    W4A6 A6 x6
        16      82.96 (82.96)   76.56 (76.55)   73.54 (73.54)   85.31 (85.31)
        64      84.05 (84.05)   76.29 (76.29)   76.70 (76.70)   85.89 (85.89)
    """
    config = model.config if isinstance(model, Classifier) else model
    heads, states, layers = config.heads, _states(config), config.layers
    widths = {} if scheme is None else _words(scheme)

    integer = scheme is not None and scheme.bits.state is not None
    if integer and layers > 1:  # the input of the next integer recurrence
        widths["residual"] = widths["residual"] or MAX_BITS

    def width(*parts: str) -> int:
        return max(widths.get(part) or FULL for part in parts)

    complex_words, products = 2 * heads * states * layers, heads * states
    matrices = heads * (config.inputs + 2 * heads * layers + config.outputs)
    return MemoryWords(
        (
            MemoryWord("A", complex_words, width("poles")),
            MemoryWord("B", complex_words, width("b")),
            MemoryWord("C", complex_words, width("c")),
            MemoryWord("D", heads * layers, width("d")),
            MemoryWord("matrices", matrices, width("weights")),
            MemoryWord("biases", heads * (1 + 2 * layers) + config.outputs, width("biases")),
            MemoryWord("x", complex_words, width("state")),
            MemoryWord("Re(C x)", 0 if integer else products, FULL),
            MemoryWord("u", heads, width("encoder", "residual") if layers > 1 else width("encoder")),
            MemoryWord("y", heads, width("recurrent", "after_d", "gelu")),
            MemoryWord("mixing output", 2 * heads, width("mixing", "glu")),
        )
    )


def _states(config: ModelConfig) -> int:
    """Complex states per head."""
    assert isinstance(config.layer, S4DConfig)
    return config.layer.n_state // 2


_UNIT = ("poles", "b", "c", "state", "encoder", "recurrent")
"""What an integer recurrence needs as codes."""


def _words(scheme: Scheme) -> dict[str, int | None]:
    """Word length of every part, 16 where the integer recurrence needs one and the scheme has none."""
    bits = scheme.bits
    unit = MAX_BITS if bits.state is not None else None
    return {part: width or (unit if part in _UNIT else None) for part, width in bits.model_dump().items()}


def memory_saving(model: ModelConfig | Classifier, scheme: Scheme) -> float:
    """What the scheme saves of the full-precision memory, in percent."""
    return 100.0 * (1.0 - memory_words(model, scheme).bits / memory_words(model, None).bits)
