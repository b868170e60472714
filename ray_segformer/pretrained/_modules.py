"""Models of transformers in memory: whether their modules are those that their configuration describes."""

from __future__ import annotations

from typing import Any

from ray_segformer._guesses import Guess, say
from ray_segformer.pretrained._weights import CheckpointError

_HARMLESS = ("Dropout", "Identity", "SegformerDropPath")  # which do nothing in prediction
_SAME = {"SyncBatchNorm": "BatchNorm2d"}  # in prediction


def check_modules(model: Any) -> None:
    """Check that no module of a model was replaced by another kind, such as an activation or a norm.

    Only the model's weights and configuration are used, so its masks would differ from those of the model itself.

    Args:
        model: a transformers `SegformerForSemanticSegmentation`, or a wrapper of one.

    Warns:
        SegformerWarning: "forward-hooks": there are hooks, such as `register_forward_hook` adds, which are not taken.

    Raises:
        CheckpointError: a module is of another kind. The message names it.
    """
    import torch
    from transformers import SegformerForSemanticSegmentation

    # torch.compile, of the whole model or of a part, puts a module of this name between.
    modules = {name.replace("_orig_mod.", ""): module for name, module in model.named_modules()}
    config = model.config.to_dict()
    config |= {"hidden_sizes": config["num_attention_heads"], "decoder_hidden_size": 1}  # the smallest of its kind
    with torch.random.fork_rng(devices=[]):
        described = SegformerForSemanticSegmentation(type(model.config).from_dict(config))
    for name, module in described.named_modules():
        if name not in modules or any(True for _ in module.children()):
            continue
        own, expected = _kind(modules[name]), _kind(module)
        if own != expected:
            raise CheckpointError(
                f"the model: {name} is {own}, and {expected} by its configuration; only weights and configuration are "
                "taken of a model"
            )
    hooked = [name or "the model" for name, module in modules.items() if _has_hooks(module)]
    if hooked:
        message = (
            f"the model's forward hooks ({', '.join(hooked)}) are left out; only weights and configuration are taken"
        )
        say([Guess("forward-hooks", message)])


def _has_hooks(module: Any) -> bool:
    """Return whether there are hooks beside those of transformers, which collect outputs and change none."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not hook.__module__.startswith("transformers.") for hook in hooks)


def _kind(module: Any) -> str:
    """Return what a module does, but for its weights and sizes."""
    name = type(module).__name__
    name = "GELUActivation" if name == "GELU" and module.approximate == "none" else _SAME.get(name, name)
    if name in _HARMLESS:
        return "nothing"
    return f"{name}(eps={module.eps:g})" if hasattr(module, "eps") else name
