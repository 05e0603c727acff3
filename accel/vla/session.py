"""What the sites of one query of a VLA put out under a plan."""

from __future__ import annotations

from torch import Tensor

from ..attach.values import Values, combined
from ..engines.sessions import Session


class VlaSession(Session):
    """As `Session`; forecasts add what is apart from the newest value, half precision in float32.

    So equal values give that value again whatever their coefficients are.
    """

    def _combined(self, step: int, site: int, stored: list[Tensor]) -> Tensor:
        plan = self.plan
        if plan.alpha is None:
            return stored[0]
        low = [0.0] * plan.n_slots if plan.bands is None else plan.bands.low[step, site]
        rows = zip(stored, plan.alpha[step, site], low, strict=False)
        terms: list[tuple[Values, float, float]] = [
            ((value,), float(high), float(band)) for value, high, band in rows
        ]
        cutoff = 0.0 if plan.bands is None else plan.bands.cutoff
        found = combined(None, terms, cutoff)[0]
        assert found is not None
        return found

    def _biased(self, value: Tensor, step: int, site: int) -> Tensor:
        if self.bias is None:
            return value
        bias = self.bias[step, site]
        if bias.shape != value.shape[1:]:
            raise RuntimeError(
                f"the calibration is of {tuple(bias.shape)} (tokens, width), the query has "
                f"{tuple(value.shape[1:])}: calibrate with chunks of this length"
            )
        return (value.float() + bias).to(value.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that are stored."""
        return sum(value.nbytes for stored in self.stored for value in stored)
