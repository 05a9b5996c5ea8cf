"""Energy, area and delay of the digital unit's building blocks from standard cells (docs/gates.md)."""
