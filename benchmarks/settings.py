"""The settings of a run: data, model, threads, rounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The command's options.

    Attributes:
        shared: the folder with `data/` and `models/`.
        threads: the number of threads of every contestant, and of Ray's CPUs.
        repeats: rounds of the tables in which contestants take turns; None for each section's own number.
        quick: smaller sizes, for a quick look.
    """

    shared: Path
    threads: int
    repeats: int | None
    quick: bool

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Our runtimes. A quick run leaves out "compile", which takes half a minute the first time on a machine."""
        return ("eager", "openvino") if self.quick else ("eager", "compile", "openvino")

    @property
    def model(self) -> str:
        """The Hugging Face directory of the model: B0, 150 classes, trained weights."""
        return str(self.shared / "models" / "segformer-b0-camvid")

    @property
    def photos(self) -> list[str]:
        """Real photos of many sizes and kinds."""
        return _jpegs(self.shared / "data" / "photos")

    @property
    def ade20k(self) -> list[str]:
        """Photos of ADE20K, whose classes the model has."""
        return _jpegs(self.shared / "data" / "ade20k" / "images")

    @property
    def streets(self) -> list[str]:
        """Frames of CamVid's test videos, 480 x 360, ordered so that the first ones come from all videos."""
        frames = _jpegs(self.shared / "data" / "camvid" / "test" / "images")
        return [frame for start in range(16) for frame in frames[start::16]]

    def mixed(self, count: int) -> list[str]:
        """Return `count` photos and street frames in turn, repeated if there are fewer."""
        pairs = [path for pair in zip(self.photos, self.streets, strict=False) for path in pair]
        return (pairs * (count // len(pairs) + 1))[:count]

    def rounds(self, usual: int) -> int:
        """Return the number of rounds of a table that usually has `usual` rounds."""
        return self.repeats or (max(1, usual // 4) if self.quick else usual)


def _jpegs(folder: Path) -> list[str]:
    paths = sorted(str(path.resolve()) for path in folder.glob("*.jpg"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no JPEG files; give the folder that has data/ and models/ with --shared")
    return paths
