"""How the network is run: by torch as it is, compiled by torch, or by OpenVINO.

| runtime | needs | the first time on a machine | in a process |
|---|---|---|---|
| eager | nothing | | |
| compile | a C++ compiler, torch 2.6 | half a minute, for each image size and number of threads | loads it |
| openvino | `pip install "ray_segformer[openvino]"` | seconds | compiles in half a second for each image size |

What was compiled is kept in `program_cache.cache_directory()`. Each uses as many threads as torch does in the process,
which in a Ray actor is its `num_cpus`.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_segformer.network.program_cache import cached, program_key
from ray_segformer.network.segformer import SegformerNetwork

logger = logging.getLogger(__name__)

_RUNTIMES = ("auto", "eager", "compile", "openvino")
_DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# On a CPU one image at a time leaves its activations in the cache; a GPU wants more to do.
_ROWS = {"cpu": 1, "cuda": 16}
_SIZES = 8  # image sizes that a process keeps programs for


class Runtime(Protocol):
    """A network that can be called.

    Attributes:
        rows: how many images to give it at once, at most; may be lowered.
    """

    rows: int

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Float32 logits (B, height / 4, width / 4, classes) of normalised float32 pixel values (B, 3, height, width).

        The logits' memory is the runtime's, and valid until its next call.
        """
        ...


def make_runtime(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    runtime: str = "auto",
    dtype: str = "auto",
    device: str = "cpu",
) -> Runtime:
    """A network, ready to run. Tested on CPU; on CUDA this code has not been run yet.

    Args:
        config, weights: as for `SegformerNetwork`.
        runtime: one of the table above; "auto" is "eager".
        dtype: of the arithmetic: "float32"; "bfloat16", faster and less exact; "float16", on CUDA only. "auto" is
            "float32" on the CPU, and "bfloat16" on CUDA. Logits are float32 in each.
        device: "cpu" or "cuda".

    Raises:
        ValueError: an option has none of its values, or they do not go together, or the weights do not fit `config`.
        RuntimeError: what the runtime needs is not installed.
    """
    check_options(runtime, dtype, device)
    number_type = _DTYPES[dtype] or (torch.float32 if device == "cpu" else torch.bfloat16)
    if runtime == "compile":
        return CompiledRuntime(config, weights, number_type, device)
    if runtime == "openvino":
        return OpenVinoRuntime(config, weights, number_type)
    return EagerRuntime(config, weights, number_type, device)


def check_options(runtime: str, dtype: str, device: str) -> None:
    """Raise what `make_runtime` would raise of these options, without a network."""
    for option, value, values in (("runtime", runtime, _RUNTIMES), ("dtype", dtype, tuple(_DTYPES))):
        if value not in values:
            raise ValueError(f"{option} is one of {values}, not {value!r}")
    if dtype == "float16" and device == "cpu":
        raise ValueError('dtype="float16" is for CUDA; on a CPU take "bfloat16" or "float32"')
    if runtime == "openvino" and device != "cpu":
        raise ValueError('runtime="openvino" is for CPUs; on CUDA take "eager" or "compile"')
    if runtime == "openvino":
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            raise RuntimeError(
                f'runtime="openvino" needs OpenVINO ({error}): pip install "ray_segformer[openvino]"'
            ) from error
    if runtime == "compile" and not hasattr(torch._inductor, "aoti_compile_and_package"):
        raise RuntimeError(f'runtime="compile" needs torch 2.6 or newer, this is {torch.__version__}')


class EagerRuntime:
    """torch, operation by operation."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype, device: str):
        self.rows = _ROWS[device]
        self._network = _network(config, weights, dtype, device)

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """See `Runtime`."""
        with torch.inference_mode():
            return self._network(pixel_values)


class CompiledRuntime:
    """torch's ahead-of-time compiler (AOTInductor), with the weights frozen into the program.

    A program has one shape: the last rows of a batch are filled up with zeros.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype, device: str):
        self.rows = _ROWS[device]
        self._network = _network(config, weights, dtype, device)
        self._key = functools.partial(program_key, config, weights, torch.__version__, dtype, device)
        self._program = functools.lru_cache(_SIZES)(self._load)

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """See `Runtime`."""
        program = self._program(self.rows, *pixel_values.shape[-2:])
        rows = len(pixel_values)
        with torch.inference_mode():
            filled = F.pad(pixel_values, (0, 0, 0, 0, 0, 0, 0, self.rows - rows)) if rows < self.rows else pixel_values
            return program(filled.contiguous())[:rows]

    def _load(self, rows: int, height: int, width: int) -> Callable[[Tensor], Tensor]:
        key = self._key(rows, height, width, torch.get_num_threads())
        path = cached(key, functools.partial(self._compile, rows, height, width))
        return torch._inductor.aoti_load_package(os.path.join(path, "network.pt2"))

    def _compile(self, rows: int, height: int, width: int, directory: str) -> None:
        logger.info("compiling the network for images of %d x %d, once on this machine", width, height)
        device = next(self._network.parameters()).device
        example = torch.zeros(rows, 3, height, width, device=device)
        path = os.path.join(directory, "network.pt2")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(self._network, (example,))
            try:
                torch._inductor.aoti_compile_and_package(
                    program, package_path=path, inductor_configs={"freezing": True}
                )
            except Exception as error:
                raise RuntimeError(
                    'runtime="compile" could not compile the network; it needs a C++ compiler (g++ or clang++) and '
                    f'the headers of Python. runtime="eager" needs neither. The compiler said: {error}'
                ) from error


class OpenVinoRuntime:
    """OpenVINO, on CPUs. In bfloat16 all of the network is, its classifier too."""

    rows = _ROWS["cpu"]

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype):
        import openvino

        self._core = openvino.Core()
        self._settings = {
            "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the actors of a machine would all pin themselves to its first cores
        }
        network = SegformerNetwork(config, weights)
        key = program_key(config, weights, torch.__version__, openvino.__version__)
        self._path = os.path.join(cached(key, functools.partial(self._convert, network)), "network.xml")
        self._program = functools.lru_cache(_SIZES)(self._load)

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """See `Runtime`."""
        program = self._program(tuple(pixel_values.shape))
        logits = program(pixel_values.contiguous().numpy(), share_inputs=True, share_outputs=True)[0]
        return torch.from_numpy(logits)

    def _load(self, shape: tuple[int, ...]) -> Any:
        model = self._core.read_model(self._path)
        model.reshape(shape)
        return self._core.compile_model(model, "CPU", self._settings)

    @staticmethod
    def _convert(network: SegformerNetwork, directory: str) -> None:
        import openvino

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = openvino.convert_model(network, example_input=torch.zeros(1, 3, 64, 64))
        openvino.save_model(model, os.path.join(directory, "network.xml"), compress_to_fp16=False)


def _network(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype, device: str
) -> SegformerNetwork:
    on_x86 = device == "cpu" and platform.machine() in ("x86_64", "AMD64")
    by_convolution = on_x86 and torch.backends.mkldnn.is_available()
    return SegformerNetwork(config, weights, dtype=dtype, by_convolution=by_convolution).to(device)
