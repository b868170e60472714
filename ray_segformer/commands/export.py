"""`ray-segformer export`: turn an output of `predict` into the files of another program."""

from __future__ import annotations

import argparse
from typing import Any

from ray_segformer.commands.common import (
    EXIT_FAILURES,
    EXIT_USAGE,
    HelpFormatter,
    counted,
    example,
    fail,
    fail_by_line,
    fail_in_job,
)

_FORMATS = ("png", "coco", "label-studio", "cityscapes", "geotiff", "video")


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    export = commands.add_parser(
        "export",
        help="turn masks into the files of another program",
        description="Turn an output of `predict` into the files of another program: png (with a palette, as Datumaro "
        "imports it), coco (run lengths in annotations.json), label-studio (pre-annotations), cityscapes (label ids, "
        "as its evaluation reads them), geotiff (of GeoTIFF files, in their place on Earth), or video (the overlays of "
        "videos).",
        epilog=example("export segmented/ exported/ --format coco"),
        formatter_class=HelpFormatter,
    )
    export.add_argument("output", metavar="OUTPUT", help="the output of predict, finished or not; a path or a URI")
    export.add_argument("destination", metavar="DEST", help="the folder to make; a path or a URI")
    export.add_argument("--format", choices=_FORMATS, required=True, help="the format of the files")
    export.add_argument(
        "--panoptic", action="store_true", help="with coco: also write panoptic.json and panoptic/, images of segments"
    )
    earlier = export.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="delete an earlier export first")
    earlier.add_argument(
        "--resume", action="store_true", help="continue an interrupted export of the same options, if there is one"
    )
    export.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    from ray_segformer.exports import ExportError, SourceError
    from ray_segformer.images import public_uri
    from ray_segformer.inputs import readable
    from ray_segformer.jobs import ResourceError, export
    from ray_segformer.outputs import OutputError

    if arguments.panoptic and arguments.format != "coco":
        return fail(EXIT_USAGE, f"--panoptic is for --format coco, not {arguments.format}")
    try:
        summary = export(
            arguments.output,
            arguments.destination,
            arguments.format,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
            **({"panoptic": True} if arguments.panoptic else {}),
        )
    except SourceError as error:
        return fail(EXIT_FAILURES, error)
    except ResourceError as error:  # it has a line for each node
        return fail_by_line(EXIT_USAGE, error)
    except (ExportError, OutputError) as error:
        return fail(EXIT_USAGE, error)
    except KeyboardInterrupt:
        return fail(EXIT_FAILURES, "interrupted", "; --resume continues after the files that are done")
    except Exception as error:
        return fail_in_job(error, "; --resume continues after the files that are done")
    if not summary["source_finished"]:
        print("OUTPUT is not finished: these are the images so far")
    if summary["failures"]:
        count = summary["failures"]
        print(
            "1 image has no mask, and is left out" if count == 1 else f"{count} images have no mask, and are left out"
        )
    files = f"{counted(summary['files'], 'file')} of " if "files" in summary else ""
    print(f"{files}{counted(summary['images'], 'image')}: {public_uri(readable(arguments.destination))}")
    return 0
