"""Load on ``gptscratch serve``: throughput and latency of N clients against one, memory over many requests.

    python tests/benchmarks/serve_load.py RUN --clients 16 --seconds 60
    python tests/benchmarks/serve_load.py RUN --clients 16 --requests 10000 --new-tokens 8 --seconds 120

It starts the server itself, on a free port of this machine, and connects to nothing else. ``--url`` measures
another server with the same API, for example of a peer, with ``--model`` as its model.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

MOST_SECONDS, MOST_REQUESTS, MOST_CLIENTS = 120, 20_000, 64
PROMPTS = (
    "The",
    "Once upon a time, there was",
    "First Citizen:\nBefore we proceed any further, hear me speak.",
)


class Load:
    """What the clients of one measurement saw."""

    def __init__(self, body: dict[str, object], *, seconds: float, requests: int) -> None:
        self.body, self.left = body, requests
        self.end = time.perf_counter() + seconds
        self.latencies: list[float] = []
        self.tokens = 0
        self.errors: list[str] = []

    async def client(self, http: httpx.AsyncClient, number: int) -> None:
        """One request after the other, with prompts of several lengths."""
        while self.left > 0 and time.perf_counter() < self.end:
            self.left -= 1
            body = self.body | {"prompt": PROMPTS[(number + self.left) % len(PROMPTS)], "seed": self.left}
            start = time.perf_counter()
            answer = await http.post("/v1/completions", json=body)
            self.latencies.append(time.perf_counter() - start)
            if answer.status_code == 200:
                self.tokens += answer.json()["usage"]["completion_tokens"]
            else:
                self.errors.append(answer.text)

    async def run(self, url: str, clients: int) -> None:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as http:
            await asyncio.gather(*(self.client(http, number) for number in range(clients)))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def resident_mb(pid: int) -> float:
    """Memory of a process; 0 where /proc is missing."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


@contextmanager
def server(run: str) -> Iterator[tuple[str, int]]:
    """(address, process id) of a server of the run."""
    command = [sys.executable, "-m", "gptscratch", "serve", run, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0], process.pid
                return
        raise SystemExit("The server did not start.")
    finally:
        process.terminate()
        process.wait()


def measure(
    url: str, pid: int, clients: int, body: dict[str, object], *, seconds: float, requests: int
) -> None:
    load = Load(body, seconds=seconds, requests=requests)
    before, start = resident_mb(pid), time.perf_counter()
    asyncio.run(load.run(url, clients))
    spent = time.perf_counter() - start
    count = len(load.latencies)
    p50, p99 = (1000 * percentile(load.latencies, share) for share in (0.5, 0.99))
    print(
        f"{clients:3} clients: {load.tokens / spent:7.0f} tokens/s, {count / spent:6.1f} requests/s"
        f", p50 {p50:6.0f} ms, p99 {p99:6.0f} ms, {count} requests, {len(load.errors)} errors, "
        f"memory {before:.0f} -> {resident_mb(pid):.0f} MB",
        flush=True,
    )
    for text in load.errors[:3]:
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", default="")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, help="end after N, without the single client")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--model", default="")
    given = parser.parse_args()
    seconds, requests = min(given.seconds, MOST_SECONDS), min(given.requests or MOST_REQUESTS, MOST_REQUESTS)
    clients = min(given.clients, MOST_CLIENTS)
    body: dict[str, object] = {"max_tokens": given.new_tokens, "temperature": 0.8}
    if given.model:
        body["model"] = given.model

    def compare(url: str, pid: int) -> None:
        measure(url, pid, clients, body, seconds=2, requests=requests)  # the first requests are slower
        for count in (clients,) if given.requests else (1, clients):
            measure(url, pid, count, body, seconds=seconds, requests=requests)

    if given.url:
        compare(given.url, 0)
        return
    with server(given.run) as (url, pid):
        compare(url, pid)


if __name__ == "__main__":
    main()
