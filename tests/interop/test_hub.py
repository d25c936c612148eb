"""``gptscratch import hf:owner/model``, from a local server that has the paths of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gptscratch.runs.run import read_run

pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Each command in one process: its exit code and its first error.
COMMANDS = """
import sys
from gptscratch.cli.app import main
for command in sys.argv[1:]:
    sys.argv = ["gptscratch", *command.split()]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code, file=sys.stderr)
"""


class Hub(BaseHTTPRequestHandler):
    """The model ``owner/tiny`` with the files of a folder."""

    folder: Path
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        files = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        path = self.path.partition("?")[0]
        if path == "/api/models/owner/tiny/revision/main":
            siblings = [{"rfilename": name} for name in files]
            self.answer(json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/owner/tiny/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self.answer(json.dumps(entries).encode())
        elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/") and path.rpartition("/")[2] in files:
            self.answer(files[path.rpartition("/")[2]])
        elif "/owner/broken/" in path:
            self.answer(b"{}", 400)
        else:
            self.answer(b"{}", 404, **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        etag = hashlib.sha1(data).hexdigest()
        headers |= {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(data))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(published: Callable[..., Any]) -> Iterator[ThreadingHTTPServer]:
    _, Hub.folder = published("Llama", shards="20KB")
    (Hub.folder / "consolidated.safetensors").write_bytes(b"the same weights once more")
    Hub.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub_is_downloaded_and_imported(
    hub: ThreadingHTTPServer, home: Path, tmp_path: Path
) -> None:
    commands = ("import hf:owner/tiny", "import hf:owner/missing", "import hf:owner/broken",
                "import hf:nothing", "import owner/tiny")  # fmt: skip
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *commands], env=os.environ | settings, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    record = read_run(home / "runs" / "tiny")
    assert record.imported is not None
    assert record.imported["source"] == f"hf:owner/tiny@{COMMIT}"
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("exit")] == [f"exit {n}" for n in (0, 2, 1, 2, 2)]
    assert "error: The hub has no model owner/missing that can be read" in done.stderr
    assert "error: 'nothing' is not the name of a model on the hub." in done.stderr
    assert "gptscratch import hf:owner/tiny" in done.stderr  # the hint, because there is no such folder
    assert "Traceback" not in done.stderr
    downloaded = {path.rpartition("/")[2] for path in Hub.requests if "/resolve/" in path}
    assert downloaded >= {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    assert "consolidated.safetensors" not in downloaded
