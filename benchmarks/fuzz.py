"""Read damaged files: does any crash the process, hang, raise an unexpected error, or leak memory?"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import struct
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Table, progress
from benchmarks.settings import Settings
from ray_segformer.images import CAUSES, ImageError, cause_of, to_class_ids, to_rgb
from ray_segformer.preprocessor import SegformerPreprocessor

_PATIENCE = 30  # seconds for a file, on a machine that may be busy
_SAMPLES = 10  # how often memory is sampled
CRASHED, HUNG, FOREIGN, DECODED = "crashed", "hung", "foreign error", "decoded"


def run(settings: Settings) -> list[Table]:
    """Return a table of outcomes by kind of damage, and one of what must not happen, with memory."""
    count = 300 if settings.quick else 10_000
    paths = real_files(settings.shared)
    results = fuzz(paths, count)
    rows = []
    for kind in ("all", *DAMAGES):
        outcomes = Counter(result["outcome"] for result in results if kind in ("all", result["kind"]))
        rows.append({"name": kind, "files": outcomes.total(), **{why: outcomes[why] for why in (DECODED, *CAUSES)}})
    seen = [why for why in (DECODED, *CAUSES) if rows[0][why]]
    memory = [(result["number"] + 1, result["memory"]) for result in results if result.get("memory")]
    notes = [result["error"] for result in results if result["outcome"] == FOREIGN]
    notes += [
        f"file {result['number']} {result['outcome']}" for result in results if result["outcome"] in (CRASHED, HUNG)
    ]
    summary: dict[str, Any] = {
        **{what: sum(result["outcome"] == what for result in results) for what in (CRASHED, HUNG, FOREIGN)},
        "slowest": max(result["seconds"] for result in results),
        "first": memory[0][1],
        "last": memory[-1][1],
        # The slope of a line through the samples. The first is left out, because libraries still load until then.
        "slope": float(np.polyfit(*zip(*memory[1:], strict=True), 1)[0]) * 1000,
        # Python shows a warning of the same text only once in a process.
        "warnings": len({text for result in results for text in result.get("warnings", ())}),
        "samples": memory,
    }
    return [
        Table(
            f"{count:,} damaged JPEG and PNG files through `to_rgb` and `SegformerPreprocessor`",
            {"name": "damage", "files": "files", **{why: why for why in seen}},
            rows,
            [
                f"The outcome of `to_rgb`. The originals are {len(paths):,} photos, frames and annotations. Half of "
                "the JPEG files are given EXIF data first."
            ],
        ),
        Table(
            "The process that read them",
            {
                **{CRASHED: "crashes", HUNG: f"over {_PATIENCE} s", FOREIGN: "other errors", "slowest": "slowest, s"},
                **{"first": f"MB after {memory[0][0]:,}", "last": f"MB after {memory[-1][0]:,}"},
                **{"slope": "MB more for 1,000 files", "warnings": "warnings"},
            },
            [summary],
            notes,
        ),
    ]


def real_files(shared: Path) -> list[str]:
    """Return the JPEG and PNG files to damage."""
    paths = sorted(path for path in (shared / "data").rglob("*") if path.suffix in (".jpg", ".png"))
    return [str(path) for path in paths]


def fuzz(paths: Sequence[str], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Read damaged files. The same `seed` gives the same files.

    Returns:
        For each file `number`, `kind` of damage, `outcome` (one of `CAUSES`, or "crashed", "hung", "foreign error" or
        "decoded") and `seconds`; for some also `memory` (resident, MB).
    """
    work = functools.partial(
        _examine_number, list(paths), seed, max(1, count // _SAMPLES), SegformerPreprocessor(on_error="keep")
    )
    results = []
    for number, seconds, result in watch(work, range(count)):
        if isinstance(result, str):
            result = {"kind": _kind(number), "outcome": result}
        results.append({"number": number, "seconds": seconds, **result})
        if number % 50 == 0:
            progress(f"fuzz: {number} of {count} files")
    progress("")
    return results


def watch(work: Callable[[int], Any], numbers: range, patience: float = _PATIENCE) -> Iterator[tuple[int, float, Any]]:
    """Call `work` with each number, in another process. After a crash or a timeout, a new process continues.

    Args:
        work: the function, which must be picklable.
        numbers: its arguments.
        patience: the timeout of one call, in seconds.

    Yields:
        The number, the seconds the call took, and its result, or `CRASHED` or `HUNG`.
    """
    context = multiprocessing.get_context("spawn")
    while numbers:
        pipe, other_end = context.Pipe()
        process = context.Process(target=_serve, args=(other_end, work, numbers), daemon=True)
        process.start()
        other_end.close()
        outcome = None
        try:
            pipe.recv()  # the process has started
            while numbers and outcome is None:
                if pipe.poll(patience):
                    yield (numbers[0], *pipe.recv())
                    numbers = numbers[1:]
                else:
                    outcome = HUNG
        except EOFError:
            outcome = CRASHED
        if outcome is not None:
            yield numbers[0], patience, outcome
            numbers = numbers[1:]
        process.kill()
        process.join()
        pipe.close()


def _serve(pipe: Any, work: Callable[[int], Any], numbers: range) -> None:
    pipe.send(None)
    for number in numbers:
        started = time.perf_counter()
        result = work(number)
        pipe.send((time.perf_counter() - started, result))


def _examine_number(
    paths: list[str], seed: int, sample: int, preprocessor: SegformerPreprocessor, number: int
) -> dict[str, Any]:
    random = np.random.default_rng([seed, number])
    content, other = (Path(paths[random.integers(len(paths))]).read_bytes() for _ in range(2))
    if content.startswith(_JPEG) and random.integers(2):
        content = _JPEG + _exif(int(random.integers(1, 9))) + content[2:]
    content = DAMAGES[_kind(number)](content, random, other)
    if content.startswith(_PNG) and random.integers(2):
        content = _with_checksums(content)  # else the checksum alone would find the damage
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")  # each text once, as a user sees it
        result = {"kind": _kind(number), **examine(content, preprocessor)}
    result["warnings"] = sorted({f"{warning.category.__name__}: {warning.message}" for warning in shown})
    if (number + 1) % sample == 0:
        lines = Path("/proc/self/status").read_text().splitlines()
        result["memory"] = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
    return result


def examine(
    content: bytes, preprocessor: SegformerPreprocessor, read: Callable[[bytes], np.ndarray] = to_rgb
) -> dict[str, str]:
    """Read a file with `read` and with the preprocessor. Return the `outcome`, and with `FOREIGN` the `error`."""
    try:
        try:
            read(content)
            outcome = DECODED
        except ImageError as error:
            outcome = cause_of(str(error))
        with contextlib.suppress(ImageError):
            to_class_ids(content)
        cell = np.empty(1, object)
        cell[0] = content
        error = preprocessor.preprocess({"image": cell})["error"][0]
        kept = DECODED if error is None else cause_of(error)
        if kept != outcome or outcome not in (DECODED, *CAUSES):
            raise AssertionError(f"to_rgb said {outcome}, the preprocessor {kept}: {error}")
        return {"outcome": outcome}
    except Exception as error:
        return {"outcome": FOREIGN, "error": f"{type(error).__name__}: {error}"}


# -- damage -----------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_HEADER = 64  # bytes: all of a PNG's IHDR, and the start of a JPEG's first segments


def _flip_bytes(content: bytes, random: np.random.Generator, other: bytes) -> bytes:
    return _randomised(content, random, random.integers(0, len(content), 2 ** random.integers(0, 8)))


def _damage_header(content: bytes, random: np.random.Generator, other: bytes) -> bytes:
    return _randomised(content, random, random.integers(len(_PNG), _HEADER, random.integers(1, 5)))


def _truncate(content: bytes, random: np.random.Generator, other: bytes) -> bytes:
    return content[: random.integers(0, len(content))]


def _splice(content: bytes, random: np.random.Generator, other: bytes) -> bytes:
    """Insert a piece of another file, or overwrite a piece with it."""
    at, start = random.integers(0, len(content)), random.integers(0, len(other))
    piece = other[start : start + 2 ** random.integers(1, 15)]
    return content[:at] + piece + content[at + random.integers(2) * len(piece) :]


def _damage_lengths(content: bytes, random: np.random.Generator, other: bytes) -> bytes:
    """Change the declared length of a chunk or segment, or repeat, drop or swap whole ones."""
    pieces = list(_chunks(content) if content.startswith(_PNG) else _segments(content))
    at, to = random.integers(0, len(pieces), 2)
    change = random.integers(4)
    if change == 0:
        pieces.insert(to, pieces[at])
    elif change == 1:
        pieces[at], pieces[to] = pieces[to], pieces[at]
    elif change == 2:
        del pieces[at]
    else:
        where, size = (0, 4) if content.startswith(_PNG) else (2, 2)  # in a JPEG, the length follows the marker
        length = random.choice([random.bytes(size), bytes(size), b"\xff" * size, b"\x7f" + b"\xff" * (size - 1)])
        pieces[at] = pieces[at][:where] + bytes(length) + pieces[at][where + size :]
    return (_PNG if content.startswith(_PNG) else _JPEG) + b"".join(pieces)


DAMAGES: dict[str, Callable[[bytes, np.random.Generator, bytes], bytes]] = {
    "bytes": _flip_bytes,
    "truncated": _truncate,
    "spliced": _splice,
    "lengths": _damage_lengths,
    "header": _damage_header,
}


def _kind(number: int) -> str:
    return list(DAMAGES)[number % len(DAMAGES)]


def _randomised(content: bytes, random: np.random.Generator, places: np.ndarray) -> bytes:
    damaged = np.frombuffer(content, np.uint8).copy()
    damaged[places] = random.integers(0, 256, len(places))
    return damaged.tobytes()


def _chunks(content: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG (length, name, content and checksum), as far as their lengths are right."""
    at = len(_PNG)
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big") + 12
        yield content[at : at + length]
        at += length


def _segments(content: bytes) -> Iterator[bytes]:
    """Yield the segments of a JPEG after its start marker. The last one has all pixels."""
    at = 2
    while content[at : at + 1] == b"\xff" and content[at : at + 2] != b"\xff\xda":
        length = int.from_bytes(content[at + 2 : at + 4], "big") + 2
        yield content[at : at + length]
        at += length
    yield content[at:]


def _exif(orientation: int) -> bytes:
    """Return an EXIF segment as cameras write it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.update({0x010F: "Camera", 0x0110: "A long name of a model", 0x0132: "2024:01:02 03:04:05", 0x011A: 72.0})
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2024:01:02 03:04:05", 0x927C: bytes(200)})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.5), 3: "E", 4: (13.0, 24.0, 36.0)})
    content = exif.tobytes()
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def _with_checksums(content: bytes) -> bytes:
    """Return a PNG with the right checksums, as far as the lengths of its chunks are right."""
    return _PNG + b"".join(
        chunk[:-4] + struct.pack(">I", zlib.crc32(chunk[4:-4])) if len(chunk) >= 12 else chunk
        for chunk in _chunks(content)
    )
