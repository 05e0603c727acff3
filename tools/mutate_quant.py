"""Plants faults in accel/quant, one at a time in a copy, and shows which test catches each."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent
KEPT = ("accel", "policies", "tests", "pyproject.toml", "py.typed")
RUNS = "test_quant_runs.py"  # needs the whole project, and little of it is arithmetic
T, C, L, A = "transform", "codes", "linear", "attention"

FAULTS: dict[str, tuple[str, str, str]] = {  # name: (module, text, what stands there instead)
    "weight not rotated a second time": (
        T,
        "        return self._mix(w if self.smooth is None else w * self.smooth)",
        "        w = w if self.smooth is None else w * self.smooth\n"
        "        return mix(w, self.width, self.first, self.perm, None)",
    ),
    "inverse permutation": (L, "transform.perm.to(", "transform.perm.argsort().to("),
    "one-sided smoothing": (T, "else w * self.smooth)", "else w)"),
    "scaled rotation": (T, "= matrix / size**0.5", "= matrix / size**0.5 * 1.01"),
    "first call only": (
        "statistics",
        "    def add(self, x: Tensor) -> None:\n",
        "    def add(self, x: Tensor) -> None:\n"
        "        if self.rows is not None:\n            return\n",
    ),
    "input changed in place": (L, "x = x * self.inverse_smooth", "x = x.mul_(self.inverse_smooth)"),
    "rounded with scale 1": (
        L,
        "layer.codes = w.float().contiguous()",
        "layer.codes = w.round().float().contiguous()",
    ),
    "the fork's zigzag": (
        T,
        "    order = torch.argsort(score, descending=True, stable=True).view(block, -1).clone()",
        "    o = torch.argsort(score, descending=True)\n"
        "    return torch.stack([o[: len(o) // 2], o.flip(0)[: len(o) // 2]], 1).flatten()\n"
        "    order = o",
    ),
    "no rotation": (T, "= matrix / size**0.5", "= torch.eye(size, dtype=torch.float64)"),
    "one scale for the tensor": (
        C,
        "peak = w.abs().amax(1)",
        "peak = w.abs().amax().expand(len(w))",
    ),
    "full-precision weight kept": (
        L,
        "        return layer.to(weight.device)",
        "        layer.register_buffer('kept', weight.detach().clone())\n"
        "        return layer.to(weight.device)",
    ),
    "clip off": (C, "CLIPS if clip else CLIPS[:1]", "CLIPS[:1]"),
    "settings unchecked": ("file", "if theirs[key] != value:", "if False:"),
    "extra state unchecked": (L, "if mine.get(k) != state.get(k)]", "if False]"),
    "bias dropped": (L, "            y = y + self.bias\n", "            y = y\n"),
    "out_proj bypassed": (
        A,
        "        out = self.out_proj(out)\n",
        "        out = self.out_proj(out) if isinstance(self.out_proj, nn.Linear) else out\n",
    ),
    "rotation by principal components": (
        T,
        '"hadamard": lambda x, block, steps, generator: hadamard(block),',
        '"hadamard": lambda x, block, steps, generator: torch.linalg.svd('
        "x.reshape(-1, block), full_matrices=False)[2].T,",
    ),
    "unseeded search": (T, "block - 1, block - 1, generator=generator", "block - 1, block - 1"),
    "foreign statistics": ("duquant", "    statistics.check(model)\n", ""),
    "weights that are not finite": ("duquant", "bool(p.isfinite().all())", "True"),
    "damaged file": ("file", 'if sha256(tensors) != header["digest"]:', "if False:"),
    "mask flipped": (A, "mask if means_masked else ~mask", "~mask if means_masked else mask"),
}


def failures(copy: Path) -> list[str]:
    """The tests that fail in this copy, the first few."""
    found = {p for p in (copy / "tests").rglob("test_quant_*.py") if p.name != RUNS}
    tests = [str(p.relative_to(copy)) for p in sorted(found)]
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=2", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *tests], cwd=copy, capture_output=True, text=True)
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)


def main() -> int:
    """Print a table; the exit code says whether every fault was caught."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in KEPT:
            source = PROJECT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        if failures(copy):
            print("the tests fail without a fault")
            return 1
        for fault, (module, text, instead) in FAULTS.items():
            path = copy / "accel" / "quant" / f"{module}.py"
            content = path.read_text()
            if content.count(text) != 1:
                print(f"{fault}: {module}.py must contain its text once: {text.strip()!r}")
                return 1
            path.write_text(content.replace(text, instead))
            caught = failures(copy)
            path.write_text(content)
            missed += not caught
            print(f"{fault:36} {', '.join(caught) or 'NOT CAUGHT'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
