"""Object stores by URL: s3:// and http(s):// through obstore."""

from __future__ import annotations

import os
import sys
from typing import Any

from voxweft.errors import RequestError

REMOTE = ("s3://", "http://", "https://")


def is_remote(url: str) -> bool:
    """Whether an URL leaves this machine's file system."""
    return url.startswith(REMOTE)


def object_store(url: str) -> Any:
    """An obstore for the folder at an s3:// or http(s):// URL.

    S3 is set up by the usual variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
    AWS_ENDPOINT_URL; without a key requests are anonymous.

    Raises
    ------
    RequestError
        If the extra is not installed.
    """
    try:
        from obstore.store import HTTPStore, S3Store
    except ImportError as error:
        raise RequestError(f"{url} needs the extra 's3': pip install 'voxweft[s3]'") from error
    if not url.startswith("s3://"):
        return HTTPStore.from_url(url.rstrip("/"), client_options={"allow_http": True})
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    config: dict[str, Any] = {"region": os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")):
        config |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        config["skip_signature"] = True
    return S3Store(bucket, prefix=prefix.rstrip("/"), client_options={"allow_http": True}, **config)


def remote_errors() -> tuple[type[Exception], ...]:
    """What an object store raises; nothing where the extra is not in use."""
    if "obstore" not in sys.modules:
        return ()
    from obstore.exceptions import BaseError

    return (BaseError,)
