"""Digests of row keys: 16 bytes each, so that millions of them fit in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 16
"""The length of a digest."""

DIGEST = f"S{DIGEST_BYTES}"
"""The dtype of digests in an array."""


class DoneRows:
    """The keys of the rows that are done, as digests of 16 bytes each.

    Args:
        digests: from `digests_of`: S16 `(N,)`, in any order.
        names: the names of their files, from `digests_of_names`: S16 `(M,)`. Default: they have none.

    Attributes:
        names: as given.
    """

    def __init__(self, digests: npt.NDArray[np.bytes_], names: npt.NDArray[np.bytes_] | None = None) -> None:
        self._digests = np.sort(digests)
        self.names = np.empty(0, DIGEST) if names is None else names

    def __len__(self) -> int:
        return len(self._digests)

    def among(self, keys: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return for each key whether it is done: bool `(N,)`."""
        wanted = digests_of(keys)
        if not len(self):
            return np.zeros(len(wanted), bool)
        places = np.searchsorted(self._digests, wanted).clip(max=len(self) - 1)
        is_done: npt.NDArray[np.bool_] = self._digests[places] == wanted
        return is_done


def digests_of(keys: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Return the digests of keys: S16 `(N,)`. Among ten million keys, the probability of a collision is 1e-25."""
    texts = (key.encode("utf-8", "surrogatepass") for key in keys)
    digests = (hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest() for text in texts)
    return np.fromiter(digests, DIGEST)
