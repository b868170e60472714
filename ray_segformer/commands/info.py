"""`ray-segformer info`: describe a checkpoint, without running it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ray_segformer.commands.common import EXIT_USAGE, MODEL_HELP, HelpFormatter, checkpoint_of, example, fail, printable

# The names of batch norm's running statistics, which are not parameters.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    info = commands.add_parser(
        "info",
        help="describe a checkpoint",
        description="Print a checkpoint's size, cost, classes, preprocessing, and what it was trained with.",
        epilog=example("info nvidia/segformer-b0-finetuned-ade-512-512"),
        formatter_class=HelpFormatter,
    )
    info.add_argument("model", metavar="CHECKPOINT", help=MODEL_HELP)
    info.add_argument("--json", action="store_true", help="print as JSON, with the scores by class of each epoch")
    info.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    from ray_segformer.pretrained import CheckpointError

    try:
        facts = describe(checkpoint_of(arguments.model))
    except (CheckpointError, OSError, ValueError) as error:
        return fail(EXIT_USAGE, error)
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    gmac = facts["gmac"]
    print(f"{'origin':<21} {facts['origin']}")
    print(f"{'parameters':<21} {facts['parameters']:,}")
    cost = f"{gmac['folded']:.2f} an image of {gmac['size'][0]} x {gmac['size'][1]}"
    print(f"{'GMAC':<21} {cost} ({gmac['published']:.2f} with the decoder as published)")
    print(f"{'protocol':<21} {facts['protocol']}")
    for name, value in facts["preprocessing"].items():
        print(f"{name:<21} {_text(value)}")
    print(f"{'classes':<21} {len(facts['classes'])}: {printable(', '.join(facts['classes'].values()))}")
    for guess in facts["guesses"].values():
        print(f"{'assumed':<21} {guess}")
    _print_tree(facts["training"] or {"training": "not recorded"})
    return 0


def describe(checkpoint: Any) -> dict[str, Any]:
    """Describe a `SegformerCheckpoint`.

    Returns:
        `origin`: where the checkpoint came from. `parameters`: their number. `gmac`: the cost of the logits of an image
        of the preprocessor's `size`, in 10^9 multiply-adds, for the decoder as it is run here (`folded`) and as it was
        published (`published`). Where the aspect ratio is kept, `size` is a square of the short side. `protocol`: how
        images are shown to the network, a sentence. `preprocessing`: the settings of transformers' image processor.
        `classes`: names by class id. `guesses`: what the files leave open, and what is assumed. `training`: the content
        of `training.json`.
    """
    from ray_segformer.network import gmac
    from ray_segformer.protocol import PLAIN

    content, preprocessor = checkpoint.content, checkpoint.get_preprocessor()
    config = {**content.config, "id2label": range(content.num_labels)}
    size = preprocessor.height, preprocessor.width
    learnt = [array.size for name, array in content.weights.items() if not name.endswith(_STATISTICS)]
    return {
        "origin": content.source,
        "parameters": sum(learnt),
        "gmac": {"size": size, "folded": gmac(config, *size), "published": gmac(config, *size, folded=False)},
        "protocol": PLAIN.describe(preprocessor),
        "preprocessing": preprocessor.to_config(),
        "classes": {str(class_id): name for class_id, name in checkpoint.id2label.items()},
        "guesses": {guess.code: guess.message for guess in content.guesses},
        "training": content.training,
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else printable(value)


def _print_tree(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            _print_tree(value, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value, 1):
                if any(isinstance(entry, dict) for entry in item.values()):
                    print(f"{indent}{name} {number}")
                    _print_tree(item, indent + "  ")
                else:  # such as an epoch, whose lists, the scores by class, are printed by --json only
                    scalars = {key: entry for key, entry in item.items() if not isinstance(entry, list)}
                    print(f"{indent + name:<21} {_text(scalars)}")
        else:
            print(f"{indent + name:<21} {_text(value)}")
