"""Object stores by URL: s3:// and http(s):// through obstore."""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path
from typing import Any

from voxweft.errors import RequestError, first_line
from voxweft.installed import install_line

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
OWN = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
FILES = ("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
TRIES, FIRST_WAIT_S = 8, 0.02  # of a conditional PUT, which its client does not repeat where the connection breaks
REMOTE = ("s3://", "http://", "https://")
USER = re.compile(r"(\w+://)[^/\s@'\"]+@")
QUERY = re.compile(r"((?:https?|s3)://[^\s?#'\"]+)[?#][^\s'\"]*")


def is_remote(url: str) -> bool:
    """Whether an URL leaves this machine's file system."""
    return url.startswith(REMOTE)


def without_secrets(text: str) -> str:
    """An URL, or text with URLs in it, without what may let others in: users, passwords, signatures.

    >>> without_secrets("get https://ada:pw@host/a.zarr?X-Amz-Signature=f00 from s3://bucket/b.zarr")
    'get https://host/a.zarr from s3://bucket/b.zarr'
    """
    return QUERY.sub(r"\1", USER.sub(r"\1", text))


def object_store(url: str) -> Any:
    """An obstore for the folder at an s3:// or http(s):// URL.

    S3 is set up by the usual variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
    AWS_ENDPOINT_URL, the web identity and container role of a pod, or a profile of ~/.aws; without any of them requests
    are anonymous.

    Raises
    ------
    RequestError
        If the extra is not installed, the endpoint is no URL, or the bucket can be none.
    """
    try:
        from obstore.store import HTTPStore, S3Store
    except ImportError as error:
        raise RequestError(f"{url} needs the extra 's3': {install_line('s3')}") from error
    _require_endpoint()
    if not url.startswith("s3://"):
        return HTTPStore.from_url(url.rstrip("/"), client_options={"allow_http": True})
    bucket, *parts = url.removeprefix("s3://").split("/")
    if not BUCKET.fullmatch(bucket):
        raise RequestError(f"{url}: no bucket can be called {bucket!r}")
    config: dict[str, Any] = {"region": _said("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1"}
    if endpoint := _said(*ENDPOINTS):
        config |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    if not any(map(_said, OWN)):  # obstore finds those itself
        provider = _provider()
        config |= {"credential_provider": provider} if provider else {"skip_signature": True}
    return S3Store(bucket, prefix="/".join(filter(None, parts)), client_options={"allow_http": True}, **config)


def _said(*names: str) -> str:
    """The first of these variables that is not empty."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def _require_endpoint() -> None:
    """Refuse an endpoint that is no URL; take away variables without a value, which obstore would obey."""
    for name in ENDPOINTS:
        if name in os.environ and not os.environ[name].strip():
            del os.environ[name]
    endpoint = _said(*ENDPOINTS)
    if endpoint and not re.match(r"https?://[^\s/]+", endpoint):
        raise RequestError(f"AWS_ENDPOINT_URL {endpoint!r} is no URL; it begins with http:// or https://")


@functools.cache
def _provider() -> Any:
    """Credentials as AWS's own tools find them: profiles, shared files, single sign-on; None where there are none."""
    if not _said(*FILES) and not (Path.home() / ".aws").is_dir():
        return None
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider

        session = boto3.Session()
        return Boto3CredentialProvider(session) if session.get_credentials() else None
    except ImportError as error:
        raise RequestError(f"credentials from ~/.aws need the extra 's3': {install_line('s3')}") from error
    except Exception as error:  # botocore's have no common base that it tells
        raise RequestError(f"the credentials of AWS cannot be read: {first_line(error)}") from error


def remote_errors() -> tuple[type[Exception], ...]:
    """What an object store raises; nothing where the extra is not in use."""
    if "obstore" not in sys.modules:
        return ()
    from obstore.exceptions import BaseError

    return (BaseError,)
