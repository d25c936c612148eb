"""gptscratch eval: what it needs, in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from .conftest import Ended


@pytest.mark.usefixtures("tale")
def test_a_missing_package_and_a_missing_task_are_named(
    gptscratch: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the command sets variables
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "gptscratch.interop.lm_eval", raising=False)
    ended = gptscratch("eval", "tale", "--tasks", "piqa")
    assert ended.code == 2
    assert "[eval]" in ended.err
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    for none in ((), ("--tasks", " , ")):
        ended = gptscratch("eval", "tale", *none)
        assert ended.code == 2
        assert "Give --tasks" in ended.err
