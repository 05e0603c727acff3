"""Everything about a quantised layer but its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from .config import OFF


def arithmetic(bits: int, activation: str) -> str:
    """How codes of up to so many bits are computed with: "integer" or "simulated"."""
    return "integer" if bits <= 8 and activation == "symmetric" else "simulated"


@dataclass(frozen=True)
class LinearSpec:
    """Everything about a quantised layer but its tensors.

    Attributes:
        method: rtn, smooth or duquant.
        smooth, permute: whether the inputs are scaled, and permuted.
        first, second: "none", "hadamard" or "stored": the rotations of the inputs.
        rows: block of the rotation of the outputs, 1 for none.
        activation: symmetric or asymmetric.
        source: sha256 of the weight it was made from.
        rows_kind: of the rotation of the outputs: "hadamard" or "stored".
    """

    in_features: int
    out_features: int
    bias: bool
    method: str
    block: int
    smooth: bool
    first: str
    permute: bool
    second: str
    rows: int
    weight_bits: int
    activation_bits: int
    activation: str
    activation_clip: float
    source: str
    rows_kind: str = "hadamard"

    @property
    def arithmetic(self) -> str:
        """How it is computed: "integer" (codes times codes), or "simulated" in floating point."""
        return arithmetic(max(self.weight_bits, self.activation_bits), self.activation)

    @property
    def simulated(self) -> str:
        """Which part is not executed as it is named; "" where all is."""
        if self.arithmetic == "simulated":
            off = self.weight_bits == self.activation_bits == OFF
            return "" if off else "all of it, in floating point"
        narrow = {"weights": self.weight_bits, "inputs": self.activation_bits}
        said = " and ".join(f"{bits}-bit {name}" for name, bits in narrow.items() if bits < 8)
        return f"{said}, multiplied as 8-bit integers" if said else ""
