"""The keys of rows, of which millions fit in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

DIGEST_BYTES = 16
DIGEST = f"S{DIGEST_BYTES}"


class DoneRows:
    """The keys of rows that are done: 16 bytes a row, whatever the key.

    Args:
        digests: `(N,)`, of the dtype S16, in any order.
    """

    def __init__(self, digests: np.ndarray):
        self._digests = np.sort(digests)

    def __len__(self) -> int:
        return len(self._digests)

    def among(self, keys: Iterable[str]) -> np.ndarray:
        """Which of the keys are done: bool `(N,)`."""
        wanted = digests_of(keys)
        if not len(self):
            return np.zeros(len(wanted), bool)
        places = np.searchsorted(self._digests, wanted).clip(max=len(self) - 1)
        return self._digests[places] == wanted


def digests_of(keys: Iterable[str]) -> np.ndarray:
    """What is kept of keys: S16 `(N,)`. Two of ten million are alike with a chance of 1e-25."""
    texts = (key.encode("utf-8", "surrogatepass") for key in keys)
    digests = (hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest() for text in texts)
    return np.fromiter(digests, DIGEST)
