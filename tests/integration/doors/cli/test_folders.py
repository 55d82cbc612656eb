"""Folders that others may enter are said, by `init` and `status`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.mark.parametrize("mode", [0o701, 0o750, 0o755, 0o777])
def test_folders_that_others_may_enter_are_said(mode: int, aspects_pii: Command, tmp_path: Path) -> None:
    folders = {"data": tmp_path / "clickhouse", "receipts": tmp_path / "receipts"}
    assert "Others may enter" not in aspects_pii("init").err
    folders["receipts"].mkdir()
    for folder in folders.values():
        folder.chmod(mode)
    expected = [
        f"Others may enter the {name} folder {folder} (mode {mode:04o}): chmod 700 {folder}"
        for name, folder in folders.items()
    ]
    for command in ("init", "status"):
        ran = aspects_pii(command)
        assert ran.status == 0
        assert [line for line in ran.err.splitlines() if "Others" in line] == [f"Warning: {line}" for line in expected]
    assert aspects_pii("status", "--json").json["open_folders"] == expected
    for folder in folders.values():
        folder.chmod(0o700)
    assert "Warning" not in aspects_pii("status").err


def test_folder_of_somebody_else_is_said(aspects_pii: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aspects_pii("init")
    folder = tmp_path / "clickhouse"
    owner = 4711
    if os.geteuid() == 0:
        os.chown(folder, owner, -1)
    else:
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    said = aspects_pii("status").err
    assert f"The data folder {folder} belongs to the user with the id {owner} (mode 0700)" in said
    assert f"chown -R {os.geteuid()} {folder}" in said
