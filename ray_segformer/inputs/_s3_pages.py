"""The files of a bucket on S3, a page of a thousand at a time.

pyarrow lists a folder as a whole: of ten million objects, this takes ten thousand requests and gigabytes before the
first of them is known. So S3 is listed by boto3, if it is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs

from ray_segformer.inputs._image_input import InputError
from ray_segformer.inputs._location import Location

_ATTEMPTS = 10  # of a request that S3 answers with 503 (SlowDown), for example; pauses grow


def has_pages(location: Location) -> bool:
    """Return whether `pages_of_s3` can list a location."""
    if not isinstance(location.file_system, pa.fs.S3FileSystem):
        return False
    try:
        import boto3  # noqa: F401
    except ImportError:
        return False
    return True


def pages_of_s3(location: Location) -> Iterator[str]:
    """Yield the paths of all files below a folder on S3, in ascending order.

    Raises:
        InputError: the folder cannot be listed.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, folder = location.path.rstrip("/").partition("/")
    try:
        pages = (
            _client(location)
            .get_paginator("list_objects_v2")
            .paginate(Bucket=bucket, Prefix=f"{folder}/" if folder else "")
        )
        for page in pages:
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # by which some programs mark a folder
                    yield f"{bucket}/{found['Key']}"
    except (BotoCoreError, ClientError) as error:
        raise InputError(f"{location.shown}: cannot be listed: {error}") from error


def _client(location: Location) -> Any:
    """Return boto3's client of the store that a location's URI names, by the options that pyarrow knows."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    options, user = location.options, location.user
    session = boto3.Session()
    is_public = not user and session.get_credentials() is None  # then pyarrow signs nothing, either
    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    access_key, _, secret_key = user.partition(":")
    return session.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=options.get("region") or location.file_system.region,
        aws_access_key_id=access_key or None,
        aws_secret_access_key=secret_key or None,
        config=Config(
            signature_version=UNSIGNED if is_public else None,
            retries={"max_attempts": _ATTEMPTS, "mode": "standard"},
            s3={"addressing_style": "path"} if endpoint else None,
        ),
    )
