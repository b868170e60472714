"""What a run measures with: data, model, threads, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The command's options.

    Attributes:
        shared: the folder with `data/` and `models/`.
        threads: of every contestant, and the CPUs that Ray is given.
        repeats: rounds of each table; None for what the section finds enough.
        quick: smaller sizes, for a look rather than for numbers.
    """

    shared: Path
    threads: int
    repeats: int | None
    quick: bool

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Of ours. A quick run leaves out the one that compiles for half a minute when it is new to the machine."""
        return ("eager", "openvino") if self.quick else ("eager", "compile", "openvino")

    @property
    def model(self) -> str:
        """A Hugging Face directory: B0, 150 classes, trained weights."""
        return str(self.shared / "models" / "segformer-b0-camvid")

    @property
    def photos(self) -> list[str]:
        """Real photos of many sizes and kinds."""
        return _jpegs(self.shared / "data" / "photos")

    @property
    def ade20k(self) -> list[str]:
        """Photos of ADE20K, which the model's classes are of."""
        return _jpegs(self.shared / "data" / "ade20k" / "images")

    @property
    def streets(self) -> list[str]:
        """Frames of CamVid's test videos, 480 x 360, in an order in which the first ones come from all of them."""
        frames = _jpegs(self.shared / "data" / "camvid" / "test" / "images")
        return [frame for start in range(16) for frame in frames[start::16]]

    def mixed(self, count: int) -> list[str]:
        """Photos and street frames in turn, `count` of them, repeated where there are no more."""
        pairs = [path for pair in zip(self.photos, self.streets, strict=False) for path in pair]
        return (pairs * (count // len(pairs) + 1))[:count]

    def rounds(self, usual: int) -> int:
        """How often a table's contestants take turns."""
        return self.repeats or (max(1, usual // 4) if self.quick else usual)


def _jpegs(folder: Path) -> list[str]:
    paths = sorted(str(path.resolve()) for path in folder.glob("*.jpg"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no JPEG files; name the folder with data/ and models/ by --shared")
    return paths
