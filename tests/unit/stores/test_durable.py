"""Syncing on file systems that sync no folders, and on disks that fail."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from voxweft.stores.durable import sync_folders


@pytest.mark.parametrize(("code", "refused"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)])
def test_only_a_folder_that_cannot_be_synced_is_let_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Any, refused: Any
) -> None:
    (tmp_path / "a").mkdir()
    seen = []

    def fsync(handle: int) -> None:
        seen.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    if refused:
        with pytest.raises(OSError, match=os.strerror(code)):
            sync_folders(tmp_path / "a" / "file", tmp_path)
    else:
        sync_folders(tmp_path / "a" / "file", tmp_path)
    assert seen == ([True] if refused else [True, True])
