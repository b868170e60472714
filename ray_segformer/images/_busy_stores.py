"""Retries of requests to object stores that are busy, or cannot be reached for a moment."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ray_segformer.images._uris import without_options

_Result = TypeVar("_Result")

_ATTEMPTS = 6
_FIRST_PAUSE = 0.5  # seconds; doubled after each attempt
# What stores answer when they are busy, or cannot be reached for a moment. With curl's 6, there is no such host. HDFS
# has the number 255 for all errors of Java that have no number, as when its name node is away.
_TRANSIENT = re.compile(
    r"slow_?down|throttl|too many requests|unavailable|internal_?(failure|error)|time[d_ ]*out"
    r"|curlcode: (?!6\b)|connection (reset|refused|closed)|http (status|response code) (429|5\d\d)"
    r"|\[errno 255\]|hdfs does not answer",
    re.IGNORECASE,
)


def retried(call: Callable[..., _Result], *arguments: Any) -> _Result:
    """Return what a call to a store returns. If the store is busy, retry with exponential backoff.

    S3 says that it is busy by 503 (SlowDown), for example. There are at most five retries, in about 15 seconds. The
    store's own client makes further attempts in each of them.

    Raises:
        OSError: the last retry failed, or the first call failed with an error that is not transient. The message quotes
            no secrets.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return call(*arguments)
        except OSError as error:
            if attempt == _ATTEMPTS - 1 or isinstance(error, FileNotFoundError) or not _TRANSIENT.search(str(error)):
                message = without_options(str(error))
                if message == str(error):
                    raise
                try:
                    clean = type(error)(message)
                except TypeError:  # such as of huggingface_hub, which wants more than a message
                    clean = OSError(message)
                raise clean from None
            # Random jitter, so that many workers do not retry at the same time.
            time.sleep(_FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")
