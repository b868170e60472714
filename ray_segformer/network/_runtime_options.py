"""The options of the runtimes: their values, and what they need. They are checked without torch."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

_RUNTIMES = ("auto", "eager", "compile", "openvino")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_options(runtime: str, dtype: str, device: str) -> None:
    """Check the options of `make_runtime` without building a network. Raises the same errors."""
    for option, value, values in (("runtime", runtime, _RUNTIMES), ("dtype", dtype, _DTYPES)):
        if value not in values:
            raise ValueError(f"{option} is one of {values}, not {value!r}")
    if dtype == "float16" and device == "cpu":
        raise ValueError('dtype="float16" is for CUDA; on a CPU take "bfloat16" or "float32"')
    if runtime == "openvino" and device != "cpu":
        raise ValueError('runtime="openvino" is for CPUs; on CUDA take "eager" or "compile"')
    if runtime == "openvino":
        try:
            import_openvino()
        except ImportError as error:
            raise RuntimeError(
                f'runtime="openvino" needs OpenVINO ({error}): pip install "ray_segformer[openvino]"'
            ) from error
    if runtime == "compile" and [int(part) for part in version("torch").split(".")[:2]] < [2, 6]:
        raise RuntimeError(f'runtime="compile" needs torch 2.6 or newer, this is {version("torch")}')


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which forks this process some 30 times to send what is converted."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    import openvino

    return openvino
