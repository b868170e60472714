"""The names of tensors: what wrappers of a model and versions of transformers call them, and the Hub's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

_Tensor = TypeVar("_Tensor")

# A tensor that every checkpoint has, as `SegformerForSemanticSegmentation` and as `SegformerModel` save it.
_LANDMARKS = ("segformer.encoder.patch_embeddings.0.proj.weight", "encoder.patch_embeddings.0.proj.weight")

# Parts of a model that PEFT or loralib has changed, and did not merge.
_ADAPTERS = re.compile(r"\.(lora_\w+|base_layer|modules_to_save|original_module)(\.|$)")

# What transformers 5 calls tensors in memory, in `state_dict()`, and in the files that it saves. Earlier versions use
# the names of files in memory, too.
_IN_MEMORY = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\bstages\.(\d+)\.patch_embeddings\.", r"encoder.patch_embeddings.\1."),
        (r"\bstages\.(\d+)\.layer_norm\.", r"encoder.layer_norm.\1."),
        (r"\bstages\.(\d+)\.blocks\.(\d+)\.", r"encoder.block.\1.\2."),
        (r"\.layernorm_before\.", ".layer_norm_1."),
        (r"\.layernorm_after\.", ".layer_norm_2."),
        (r"\.attention\.q_proj\.", ".attention.self.query."),
        (r"\.attention\.k_proj\.", ".attention.self.key."),
        (r"\.attention\.v_proj\.", ".attention.self.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attention.self.sr."),
        (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
        (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
        (r"\bdecode_head\.linear_projections\.", "decode_head.linear_c."),
    )
]


def with_hub_names(tensors: Mapping[str, _Tensor]) -> dict[str, _Tensor]:
    """Give tensors the Hub's names.

    A prefix that a wrapper of the model put before its names is removed, such as `module.`. If there are names without
    a prefix, too, they are the model's, and the others are copies of it, such as an average over training.

    Raises:
        ValueError: there are several copies of the model, each with a prefix of its own; or tensors of an adapter.
    """
    adapted = next(filter(_ADAPTERS.search, tensors), None)
    if adapted is not None:
        raise ValueError(
            f"holds an adapter of PEFT, such as LoRA, that is not merged into the model ({adapted}); save what "
            "model.merge_and_unload() returns"
        )
    # A subclass of the model has some of its names in its files, too.
    tensors = {_saved_name(name): tensor for name, tensor in tensors.items()}
    for landmark in _LANDMARKS:
        prefixes = [name.removesuffix(landmark) for name in tensors if name.endswith(landmark)]
        prefixes = sorted(prefix for prefix in prefixes if prefix == "" or prefix.endswith("."))
        if len(prefixes) > 1 and prefixes[0]:
            raise ValueError(
                f"holds {len(prefixes)} copies of the model, {', '.join(prefix + '*' for prefix in prefixes)}; save "
                "the one that you mean alone, without its prefix"
            )
        if prefixes:
            prefix, restored = prefixes[0], "segformer." if landmark.startswith("encoder.") else ""
            own = {restored + name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
            others = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
            return others | {name: tensors[stored] for name, stored in own.items()}
    return dict(tensors)


def _saved_name(name: str) -> str:
    for pattern, saved in _IN_MEMORY:
        name = pattern.sub(saved, name)
    return name
