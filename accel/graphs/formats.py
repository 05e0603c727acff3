"""The files that a query is written to, and the runtimes that load them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

OPSET = 18
ACTIONS = "actions"
EXTRA = "skipstep[export]"

Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""{input: array} -> actions."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of the file.
        package: that writes it, and `runtime`, that runs it; both as they are imported.
        write: (query, example inputs, their names, path) -> None.
        load: path -> `Run`, on the CPU in float32.
        quantises: whether quantised layers can be in it.
        beside: suffixes of further files that belong to it.
    """

    suffix: str
    package: str
    runtime: str
    write: Callable[[nn.Module, tuple[Tensor, ...], Sequence[str], Path], None]
    load: Callable[[Path], Run]
    quantises: bool = False
    beside: tuple[str, ...] = ()


def check_package(package: str, setting: str) -> None:
    """Refuse what cannot be imported.

    Raises:
        ValueError: one line with the pip line.
    """
    if find_spec(package) is None:
        raise ValueError(f"{setting} needs {package}: pip install '{EXTRA}', or {package} alone")


def write_onnx(
    query: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], path: Path
) -> None:
    """By torch's tracing exporter, which needs `onnx` alone and knows every operator used here."""
    with warnings.catch_warnings(), _slow_path():
        warnings.simplefilter("ignore")  # that it traces, and that another exporter is newer
        torch.onnx.export(
            query,
            inputs,
            str(path),
            dynamo=False,
            input_names=list(names),
            output_names=[ACTIONS],
            opset_version=OPSET,
        )


def load_onnx(path: Path) -> Run:
    """A session of onnxruntime, of one thread."""
    ort: Any = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda arrays: np.asarray(session.run([ACTIONS], dict(arrays))[0])


def write_openvino(
    query: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], path: Path
) -> None:
    """Weights in float32: halves would change actions by more than rounding."""
    ov: Any = import_module("openvino")
    with warnings.catch_warnings(), _slow_path(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(query, inputs, check_trace=False)  # type: ignore[no-untyped-call]
        model = ov.convert_model(traced, example_input=inputs)
    for port, name, tensor in zip(model.inputs, names, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(ov.PartialShape(list(tensor.shape)))
    model.outputs[0].get_tensor().set_names({ACTIONS})
    model.validate_nodes_and_infer_types()
    ov.save_model(model, str(path), compress_to_fp16=False)


def load_openvino(path: Path) -> Run:
    """On the CPU, in float32 where it would choose bfloat16 by itself."""
    ov: Any = import_module("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(str(path), "CPU", settings)
    return lambda arrays: np.array(compiled(dict(arrays))[ACTIONS])


@contextmanager
def _slow_path() -> Iterator[None]:
    """Fused attention of torch, which no other runtime has, switched off."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", "onnx", "onnxruntime", write_onnx, load_onnx, quantises=True),
    "openvino": Format(
        ".xml", "openvino", "openvino", write_openvino, load_openvino, beside=(".bin",)
    ),
}
