"""Hashes of a policy's weights, each made once for as long as the weights stay what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Fingerprints:
    """Kept on a policy, and shared by the policies that share its weights.

    torch counts the changes of a tensor in place, and another tensor lies elsewhere: the hashes of
    other weights are forgotten.
    """

    def __init__(self) -> None:
        self._hashed: list[tuple[Tensor, int]] = []  # held, so that nothing else takes their place
        self._found: dict[str, str] = {}

    def __deepcopy__(self, memo: Any) -> Fingerprints:
        return Fingerprints()

    def of(self, settings: Mapping[str, Any], state: Mapping[str, Any]) -> str:
        """Hash of these settings and of a state_dict.

        Args:
            settings: as JSON.
            state: tensors, and what a layer is besides its tensors.
        """
        tensors = [value for value in state.values() if isinstance(value, Tensor)]
        if len(tensors) < len(state) or any(tensor.is_inference() for tensor in tensors):
            return fingerprint(json.dumps(settings, sort_keys=True), state)  # changes are not seen
        if not self._are(tensors):
            self._hashed, self._found = [(tensor, tensor._version) for tensor in tensors], {}
        words = json.dumps(settings, sort_keys=True)
        if words not in self._found:
            self._found[words] = fingerprint(words, state)
        return self._found[words]

    def _are(self, tensors: list[Tensor]) -> bool:
        """Whether these are the tensors that were hashed, unchanged."""
        return len(tensors) == len(self._hashed) and all(
            tensor.data_ptr() == kept.data_ptr()
            and tensor._version == version
            and (tensor.dtype, tensor.shape) == (kept.dtype, kept.shape)
            for tensor, (kept, version) in zip(tensors, self._hashed, strict=True)
        )


def fingerprint(settings: str, state: Mapping[str, Any]) -> str:
    """The sha256 of a policy's settings and weights, which is computed here and nowhere else."""
    digest = hashlib.sha256(settings.encode())
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            value = value.detach().float().cpu().contiguous().numpy()
        else:
            value = json.dumps(value, sort_keys=True).encode()
        digest.update(value)
    return digest.hexdigest()
