"""Runtimes, which execute the network: torch in eager mode, torch's ahead-of-time compiler, or OpenVINO.

| runtime | needs | first use on a machine | first use in each process |
|---|---|---|---|
| eager | nothing | | |
| compile | a C++ compiler, torch 2.6 | compiles, about a minute | |
| openvino | `pip install "ray_segformer[openvino]"` | converts the network, seconds | compiles, half a second |
| auto | | | eager; on a CPU it takes the program of compile as soon as the machine has it |

`compile` compiles again for each other image size, number of images at once, and number of threads; `openvino` for each
other image size. Compiled programs and converted networks are kept in `cache_directory()`. All runtimes
use as many threads as torch does in the process; in a Ray actor this is its `num_cpus`.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_segformer.network._processor import is_zen_5
from ray_segformer.network._program_cache import ProgramKeys, cache_directory, cached, is_cached
from ray_segformer.network._runtime_options import check_options, import_openvino
from ray_segformer.network._segformer import SegformerNetwork

logger = logging.getLogger(__name__)

# On a CPU the activations of a single image stay in its cache. A GPU needs more images to be busy.
_ROWS = {"cpu": 1, "cuda": 16}
_ON_X86 = platform.machine() in ("x86_64", "AMD64")
_PROGRAMS = 8  # how many programs, for the last image sizes, a process keeps in memory


class Runtime(Protocol):
    """A network that is ready to be called.

    Attributes:
        rows: the largest number of images for one call. Callers may lower it.
    """

    rows: int

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Return float32 logits (B, H / 4, W / 4, classes) of normalised float32 pixel values (B, 3, H, W).

        The runtime owns the memory of the logits. They are valid until its next call.
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
    """Build the network in a runtime. Tested on CPU; not yet run on CUDA.

    Args:
        config, weights: as for `SegformerNetwork`.
        runtime: "eager", "compile", "openvino" or "auto": see the table at the top of this file.
        dtype: the dtype of the arithmetic. "float32"; "bfloat16", which is faster and less exact; or "float16", on CUDA
            only. "auto" is "float32" on a CPU and "bfloat16" on CUDA. Logits are float32 in all cases.
        device: "cpu" or "cuda".

    Raises:
        ValueError: an option has an unknown value, two options exclude each other, or the weights do not fit `config`.
        RuntimeError: a package that the runtime needs is missing or too old.
    """
    check_options(runtime, dtype, device)
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    number_type: torch.dtype = getattr(torch, dtype)
    if runtime == "openvino":
        return OpenVinoRuntime(config, weights, number_type)
    network = _network(config, weights, number_type, device)
    if runtime == "eager" or (runtime == "auto" and device != "cpu"):
        return EagerRuntime(network, device)
    compiled = CompiledRuntime(network, ProgramKeys(config, weights, torch.__version__, number_type, device), device)
    return compiled if runtime == "compile" else AutoRuntime(EagerRuntime(network, device), compiled)


class EagerRuntime:
    """torch in eager mode: one operation after another."""

    def __init__(self, network: SegformerNetwork, device: str) -> None:
        self.rows = _ROWS[device]
        self._network = network

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """See `Runtime`."""
        with torch.inference_mode():
            logits: Tensor = self._network(pixel_values)
        return logits


class CompiledRuntime:
    """torch's ahead-of-time compiler (AOTInductor), with the weights frozen into the program.

    A program is compiled for one input shape, including the number of images. Fewer images are padded with zeros.
    """

    def __init__(self, network: SegformerNetwork, keys: ProgramKeys, device: str) -> None:
        self.rows = _ROWS[device]
        self._network, self._keys = network, keys
        self._program = functools.lru_cache(_PROGRAMS)(self._load)

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """See `Runtime`."""
        program = self._program(self.rows, *pixel_values.shape[-2:])
        rows = len(pixel_values)
        with torch.inference_mode():
            padded = F.pad(pixel_values, (0, 0, 0, 0, 0, 0, 0, self.rows - rows)) if rows < self.rows else pixel_values
            return program(padded.contiguous())[:rows]

    def is_compiled(self, height: int, width: int) -> bool:
        """Return whether this machine has the program for images of a size."""
        return is_cached(self._key(self.rows, height, width))

    def _key(self, rows: int, height: int, width: int) -> str:
        return self._keys.key(rows, height, width, torch.get_num_threads())

    def _load(self, rows: int, height: int, width: int) -> Callable[[Tensor], Tensor]:
        path = cached(self._key(rows, height, width), functools.partial(self._compile, rows, height, width))
        return _program_in(os.path.join(path, "network.pt2"))

    def _compile(self, rows: int, height: int, width: int, directory: str) -> None:
        from torch._inductor.cpp_builder import get_cpp_compiler  # imports the compiler, which takes seconds

        logger.info("compiling the network for images of %d x %d pixels, once on this machine", width, height)
        device = next(self._network.parameters()).device
        example = torch.zeros(rows, 3, height, width, device=device)
        path = os.path.join(directory, "network.pt2")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                get_cpp_compiler()  # fails at once if there is none
                program = torch.export.export(self._network, (example,))
                settings = {"freezing": True}
                if hasattr(torch._inductor.config.aot_inductor, "precompile_headers"):  # newer versions
                    # To compile C++'s headers once takes as long as it saves in the first three programs of a machine.
                    settings["aot_inductor.precompile_headers"] = False
                if _ON_X86 and hasattr(torch._inductor.config.cpp, "vec_isa_ok"):
                    # Else torch compiles its headers three times, to see whether the compiler knows AVX2 and AVX-512.
                    # One that is new enough for these headers does.
                    settings["cpp.vec_isa_ok"] = True
                torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=settings)
            except Exception as error:
                raise RuntimeError(
                    'runtime="compile" could not compile the network. It needs a C++ compiler (g++ or clang++) and '
                    f"Python's headers; runtime=\"eager\" needs neither. The compiler's error: {error}"
                ) from error


def _program_in(path: str) -> Callable[[Tensor], Tensor]:
    """Load a compiled program, in a twentieth of a second.

    `torch._inductor.aoti_load_package` does the same, and imports torch's compiler: 3 seconds, and 150 MB of memory in
    each process. It is taken with versions of torch whose loader has other arguments.
    """
    try:
        loader = torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, -1)
    except (AttributeError, TypeError):
        loaded: Callable[[Tensor], Tensor] = torch._inductor.aoti_load_package(path)
        return loaded
    return lambda pixel_values: loader.run([pixel_values])[0]


class AutoRuntime:
    """Eager mode on a CPU, and the program of `CompiledRuntime` as soon as this machine has it.

    It never compiles. Both are exact: masks differ only where rounding decides between two classes.
    """

    def __init__(self, eager: EagerRuntime, compiled: CompiledRuntime) -> None:
        self.rows = eager.rows
        self._eager, self._compiled = eager, compiled
        self._compiled_sizes, self._unusable_sizes = set[tuple[int, ...]](), set[tuple[int, ...]]()

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """See `Runtime`."""
        size = tuple(pixel_values.shape[-2:])
        if size not in self._compiled_sizes:
            if size in self._unusable_sizes or not self._compiled.is_compiled(*size):
                return self._eager(pixel_values)
            try:
                logits = self._compiled(pixel_values)
            except RuntimeError as error:  # its file is damaged, for example because the machine crashed
                logger.warning("a compiled program in %s cannot be used: %s", cache_directory(), error)
                self._unusable_sizes.add(size)
                return self._eager(pixel_values)
            self._compiled_sizes.add(size)
            return logits
        return self._compiled(pixel_values)


class OpenVinoRuntime:
    """OpenVINO, on CPUs. With bfloat16 the whole network runs in bfloat16, including the classifier."""

    rows = _ROWS["cpu"]

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        openvino = import_openvino()
        self._core = openvino.Core()
        self._settings = {
            "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # else all actors of a machine pin their threads to its first cores
        }
        network = SegformerNetwork(config, weights)
        key = ProgramKeys(config, weights, torch.__version__, openvino.__version__).key()
        self._path = os.path.join(cached(key, functools.partial(self._convert, network)), "network.xml")
        self._program = functools.lru_cache(_PROGRAMS)(self._load)
        self._own = threading.local()  # requests: one holds the logits of one image

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """See `Runtime`."""
        if not hasattr(self._own, "request"):
            self._own.request = functools.lru_cache(_PROGRAMS)(
                lambda shape: self._program(shape).create_infer_request()
            )
        request = self._own.request(tuple(pixel_values.shape))
        logits = request.infer(pixel_values.contiguous().numpy(), share_inputs=True, share_outputs=True)[0]
        return torch.from_numpy(logits)

    def _load(self, shape: tuple[int, ...]) -> Any:
        model = self._core.read_model(self._path)
        model.reshape(shape)
        return self._core.compile_model(model, "CPU", self._settings)

    @staticmethod
    def _convert(network: SegformerNetwork, directory: str) -> None:
        openvino = import_openvino()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = openvino.convert_model(network, example_input=torch.zeros(1, 3, 64, 64))
        openvino.save_model(model, os.path.join(directory, "network.xml"), compress_to_fp16=False)


def _network(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype, device: str
) -> SegformerNetwork:
    by_convolution = device == "cpu" and _ON_X86 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    # On Zen 4, torch's own attention is faster than convolutions in float32. Its products are MKL's, which does not use
    # AVX-512 on AMD's processors. On Zen 5 that would be half of their speed.
    fused = dtype == torch.float32 and not is_zen_5()
    network = SegformerNetwork(config, weights, dtype=dtype, by_convolution=by_convolution, fused_attention=fused)
    return network.to(device)
