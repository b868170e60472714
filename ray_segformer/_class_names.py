"""The names of a model's classes, which need not differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


def distinct_names(id2label: Mapping[int, str]) -> dict[int, str]:
    """Return class names by class id. Where several classes have one name, the id is added: "door (14)"."""
    times = Counter(id2label.values())
    return {class_id: f"{name} ({class_id})" if times[name] > 1 else name for class_id, name in id2label.items()}
