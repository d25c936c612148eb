"""``gptscratch serve``: the process, its address, its end, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from gptscratch.cli import loading, serve
from gptscratch.errors import ConfigError
from gptscratch.training.trainer import TrainResult

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

Command = Callable[..., Any]
OPTIONS: dict[str, Any] = {"quantize": None, "device": "cpu", "dtype": "float32", "rows": 1}
pytestmark = pytest.mark.usefixtures("tale")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a process there")
def test_ctrl_c_finishes_what_has_arrived_and_ends_without_an_error(home: Path) -> None:
    command = [sys.executable, "-m", "gptscratch", "serve", "tale", "tale@24", "--port", "0"]
    environment = os.environ | {"GPTSCRATCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.fullmatch(r"Serving tale, tale@24 at (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line
        with (
            httpx.Client(base_url=found[1], timeout=30, trust_env=False) as http,
            ThreadPoolExecutor() as pool,
        ):
            body = {"prompt": "the", "max_tokens": 2000, "model": "tale@24"}
            answer = pool.submit(http.post, "/v1/completions", json=body)
            while not (http.get("/health").json()["running"] or answer.done()):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert answer.result().json()["usage"]["completion_tokens"] == 2000
        assert process.wait(timeout=20) == 0
        rest = process.stderr.read()
        assert "Finishing what runs" in rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_port_in_use_is_refused(gptscratch: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ended = gptscratch("serve", "tale", "--port", other.getsockname()[1])
    assert ended.code == 2
    assert "cannot be used: Address already in use." in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tale", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines use the server."),
        (["tale", "--port", "99999"], "--port is 99999: it must be at most 65,535."),
        (["tale", "--max-batch", "0"], "--max-batch is 0: it must be at least 1."),
        (["tale", "tale"], "The model tale is given twice."),
        (["tale@7"], "The run tale has no checkpoint of step 7."),
        (["nothing"], "There is no run 'nothing'."),
        (["tale", "--host", "no such host"], "The address no such host:0 cannot be used"),
    ],
)
def test_what_cannot_be_served_is_refused(gptscratch: Command, arguments: list[str], message: str) -> None:
    port = [] if "--port" in arguments else ["--port", "0"]
    key = ["--api-key", "secret"] if "no such host" in arguments else []
    ended = gptscratch("serve", *arguments, *port, *key)
    assert ended.code == 2
    assert message in ended.err


def test_runs_of_one_name_are_served_by_what_was_typed(
    tale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        shutil.copytree(tale, tmp_path / folder / "tale")
    assert list(serve._load(["a/tale", "b/tale", "b/tale@24"], **OPTIONS)) == ["tale", "b/tale", "tale@24"]
    for again in ("b/tale", str(tmp_path / "b" / "tale")):
        with pytest.raises(ConfigError, match="is given twice"):
            serve._load(["a/tale", "b/tale", again], **OPTIONS)


def test_the_name_of_a_run_may_look_like_a_checkpoint(tale: Path, tmp_path: Path) -> None:
    tale.rename(tale.with_name("tale@5"))
    assert list(serve._load(["tale@5", "tale@5@24"], **OPTIONS)) == ["tale@5", "tale@5@24"]
    folder = shutil.copytree(tale.with_name("tale@5"), tmp_path / "tale@6")
    assert list(serve._load([str(folder)], **OPTIONS)) == ["tale@6"]


def test_a_small_model_takes_no_threads_from_a_large_one(
    monkeypatch: pytest.MonkeyPatch, fit: Callable[..., TrainResult]
) -> None:
    fit(name="other", n_layer=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        serve._load(["tale", "other"], **OPTIONS)
        assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        monkeypatch.setattr(loading, "is_small", lambda config: config.n_layer == 1)
        serve._load(["tale", "other"], **OPTIONS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_missing_package_is_named_with_its_extra(
    gptscratch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ended = gptscratch("serve", "tale")
    assert ended.code == 2
    assert "extra [serve]" in ended.err
