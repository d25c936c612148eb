"""The report that is served while a run trains."""

from __future__ import annotations

import gzip
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptscratch.errors import UserError
from gptscratch.report.live import LivePage
from gptscratch.report.page import plotly_script
from gptscratch.runs.metrics import append_metrics

pytest.importorskip("plotly")


@pytest.fixture
def live(tale: Path) -> Iterator[LivePage]:
    with LivePage([tale]) as page:
        yield page


def get(live: LivePage, path: str = "/", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def test_the_page_is_served_and_changes_when_the_run_does(live: LivePage, tale: Path) -> None:
    first = get(live)
    assert first.status == 200
    version = first.headers["ETag"]
    assert get(live, If_None_Match=version).status == 304
    append_metrics(tale / "samples.jsonl", {"step": 25, "text": "a new sample"})
    second = get(live, If_None_Match=version)
    assert second.status == 200
    assert b"a new sample" in second.body  # type: ignore[attr-defined]


def test_the_plotting_script_has_its_own_address(live: LivePage) -> None:
    answer = get(live, "/plotly.js")
    assert gzip.decompress(answer.body).decode() == plotly_script()  # type: ignore[attr-defined]
    assert len(get(live).body) < 100_000  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path", ["/config.json", "/../config.json", "//etc/passwd", "/%2e%2e/", "/index.html"]
)
def test_no_file_can_be_read(live: LivePage, path: str) -> None:
    assert get(live, path).status == 404


def test_another_site_that_points_here_gets_nothing(live: LivePage) -> None:
    assert get(live, Host="example.com").status == 403
    assert get(live, Host=f"localhost:{live.port}").status == 200


def test_other_methods_are_refused(live: LivePage) -> None:
    assert get(live, method="POST").status == 501
    assert get(live, method="HEAD").body == b""  # type: ignore[attr-defined]


def test_a_run_that_is_damaged_meanwhile_is_reported_and_comes_back(live: LivePage, tale: Path) -> None:
    config = (tale / "config.json").read_text()
    (tale / "config.json").write_text("{")
    assert get(live).status == 503
    (tale / "config.json").write_text(config)
    assert get(live).status == 200


def test_a_port_that_is_taken_is_an_error(live: LivePage, tale: Path) -> None:
    with pytest.raises(UserError, match=f"Port {live.port} cannot be used"):
        LivePage([tale], port=live.port)
