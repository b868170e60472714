"""The options of commands that read annotations: how they become the class ids of a model."""

from __future__ import annotations

import argparse
from typing import Any

from ray_segformer.commands.common import class_id


def add_label_options(command: argparse._ActionsContainer) -> None:
    """Add `--split`, the names of columns, and the options of `labels_of`."""
    command.add_argument(
        "--split",
        help="the split of INPUT, if it has splits (default: validation, else val; a saved DatasetDict has none)",
    )
    for kind in ("image", "annotation"):
        command.add_argument(
            f"--{kind}-column",
            default=kind,
            metavar="NAME",
            help=f"the column of {kind}s in parquet or in a Hugging Face dataset",
        )
    command.add_argument(
        "--labels",
        choices=("auto", "reduce", "as-is"),
        default="auto",
        help="reduce: annotations use 0 for ignored pixels and count classes from 1, as ADE20K does; as-is: they have "
        "the model's class ids; auto: as-is for Cityscapes and PASCAL VOC, else as do_reduce_labels of the model says",
    )
    command.add_argument(
        "--label-map",
        action="append",
        metavar="FROM=TO[,FROM=TO...]",
        help="map ids of the annotations to other ids, such as 255=1; if the annotations count classes from 1 (see "
        "--labels), so does TO; for Cityscapes, both are train ids; may be given several times",
    )
    command.add_argument(
        "--ignore-index",
        type=class_id,
        metavar="N",
        help="another id of the annotations to ignore, such as 65535, in addition to the model's own",
    )
    command.add_argument(
        "--label-colors",
        metavar="FILE",
        help="for annotations in colours: a file with a line name,r,g,b for each class of the model, and for `ignored`",
    )


def refuse_label_options(arguments: argparse.Namespace) -> None:
    """Refuse the options of `labels_of` for an input without annotations, where they would do nothing.

    Raises:
        ValueError: such options are given; the message names them.
    """
    given = {
        "--labels": arguments.labels != "auto",
        "--label-map": arguments.label_map is not None,
        "--ignore-index": arguments.ignore_index is not None,
        "--label-colors": arguments.label_colors is not None,
    }
    options = [option for option, is_given in given.items() if is_given]
    if options:
        raise ValueError(
            f"{', '.join(options)}: the input has no annotations; name their folder with --annotations, or leave it out"
        )


def labels_of(arguments: argparse.Namespace, checkpoint: Any, reduced_in_layout: bool | None) -> Any:
    """Return the `Labels` of the options; "auto" goes by what the layout of the dataset says, else by the model.

    Args:
        arguments: with the options of `add_label_options`.
        checkpoint: the model; None if there is none. Then there are as many classes as there can be ids.
        reduced_in_layout: `reduce_labels` of an `AnnotatedInput`.

    Raises:
        ValueError: an option is wrong; or a file of colours is given, but no model, whose classes it names.
    """
    from ray_segformer._labels import Labels
    from ray_segformer.images import parse_label_map, read_label_colors

    if arguments.label_colors and checkpoint is None:
        raise ValueError("--label-colors names the classes of a model; name the model with --model")
    if arguments.label_colors and arguments.labels == "reduce":
        raise ValueError("--label-colors names the classes of a model, and --labels reduce is for ids; leave one out")
    ignored_ids = checkpoint.content.ignored_ids if checkpoint is not None else (255,)
    colors = arguments.label_colors and read_label_colors(arguments.label_colors, checkpoint.id2label, ignored_ids[0])
    reduced = arguments.labels == "reduce"
    if arguments.labels == "auto" and not colors:  # a file of colours names the model's own classes
        of_model = checkpoint is not None and checkpoint.get_preprocessor().do_reduce_labels
        reduced = of_model if reduced_in_layout is None else reduced_in_layout
    return Labels(
        checkpoint.content.num_labels if checkpoint is not None else 2**16,
        ignored_ids=ignored_ids,
        reduce_labels=reduced,
        label_map=arguments.label_map and parse_label_map(",".join(arguments.label_map)),
        label_colors=colors,
        ignore_index=arguments.ignore_index,
    )
