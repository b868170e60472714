"""Reports as a job: turn an output of `predict` into a page to look through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_segformer.images import public_uri
from ray_segformer.inputs import Location, joined
from ray_segformer.jobs._progress import with_progress
from ray_segformer.outputs import MaskOutput, OutputError, write_file
from ray_segformer.reports import Survey, choose, pictures, render_masks

REPORT_NAME = "report.html"


def report(source: str, *, to: str | None = None, images: str | None = None, progress: bool = True) -> str:
    """Write the report of an output of `predict`, as `ray-segformer report` does. It needs no Ray.

    The page is one file that loads nothing: pictures of images with their masks, the areas of the classes, failures by
    cause, and the time of the stages. All rows are counted. Of a large output, the pictures are a random sample, the
    least confident images of a larger sample, and the best examples of each class; a repeated report has the same.

    Args:
        source: the output of `predict`: a path or a URI. It may be unfinished: then the page shows its images so far.
        to: the file to write, a path or a URI that ends in .html. It is replaced. Default: report.html in the output.
        images: the input of `predict`, if its images can be read only with the options of its URI. Default: they are
            read by their paths in the output. Those that cannot be read are named, and their masks are shown alone.
        progress: whether to show a progress bar on stderr. Default: True.

    Returns:
        The path or URI of the page, without user, password and options.

    Raises:
        OutputError: the source is no output of `predict`, or has no images yet, or the page cannot be written.
        InputError: pyarrow does not know the URI `images`.
    """
    if to is not None and not to.partition("?")[0].endswith(".html"):
        raise OutputError(f"{public_uri(to)}: the name of a report ends in .html")
    output = MaskOutput(source)
    page = report_page(output, output.summary, None if images is None else Location(images), progress=progress)
    return write_file(to or joined(source, REPORT_NAME), page)


def report_page(
    output: MaskOutput, summary: Mapping[str, Any] | None, source: Location | None, *, progress: bool
) -> bytes:
    """Return the page of an output.

    Args:
        output: the output of `predict`.
        summary: the content of its `summary.json`, which need not be there yet; None if it is not finished.
        source: the input, if its images need the options of its URI to be read.
        progress: whether to show a progress bar on stderr.

    Raises:
        OutputError: there are no images yet, or the output cannot be read.
    """
    shards = output.shards()
    if not shards:
        raise OutputError(f"{output.storage.shown}: no images there yet")
    survey = Survey(shards)
    tables = output.tables(shards, list(survey.columns))
    for table in with_progress(tables, len(shards), unit=" files of rows") if progress else tables:
        survey.add(table)
    chosen = choose(output, survey)
    shown = list(pictures(output, chosen, source))
    return render_masks(output, summary, survey, chosen, shown).encode()
