"""What each bad request gets: a status and one clear sentence, and the server answers the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Serve, serving

LIMITS = {"max_batch": 2, "max_queue": 4, "max_tokens": 50, "max_prompt_tokens": 40, "max_body": 5000}

# (what, body, status, part of the message); docs/server.md has the same table.
BAD: list[tuple[str, Any, int, str]] = [
    ("an empty body", b"", 400, "not valid JSON"),
    ("half an object", b'{"prompt": "a"', 400, "not valid JSON"),
    ("a list", b"[1, 2]", 400, "not a JSON object"),
    ("a body that is not UTF-8", b'{"prompt": "\xff"}', 400, "not valid JSON"),
    ("brackets without end", b"[" * 4000, 400, "not valid JSON"),
    ("a number of 4500 digits", b'{"seed": ' + b"9" * 4500 + b"}", 400, "not valid JSON"),
    ("a body of 6000 bytes", b'{"prompt": "' + b"a" * 6000 + b'"}', 413, "longer than 5000 bytes"),
    ("an unknown model", {"model": "gpt-4"}, 404, "There is no model 'gpt-4'. The models: by-hand."),
    ("a model that is a number", {"model": 7}, 404, "There is no model '7'"),
    ("a path as the model", {"model": "../../etc/passwd"}, 404, "There is no model"),
    ("a misspelled field", {"max_token": 5}, 400, "There is no field 'max_token'. Did you mean max_tokens?"),
    ("a field of another API", {"messages": []}, 400, "There is no field 'messages'"),
    ("suffix", {"suffix": "end"}, 400, "suffix is not supported"),
    ("logit_bias", {"logit_bias": {"5": -100}}, 400, "logit_bias is not supported"),
    ("best_of", {"best_of": 3}, 400, "best_of is not supported"),
    ("a prompt that is a number", {"prompt": 5}, 400, "must be a text, a list of token ids"),
    ("a prompt that is an object", {"prompt": {"text": "a"}}, 400, "must be a text"),
    ("no prompts", {"prompt": []}, 400, "must be a text"),
    ("an empty list of ids", {"prompt": [[]]}, 400, "Each prompt must be"),
    ("texts and numbers mixed", {"prompt": ["a", 5]}, 400, "Each prompt must be"),
    ("booleans as ids", {"prompt": [[True, False]]}, 400, "Each prompt must be"),
    ("an id beyond the vocabulary", {"prompt": [3, 999999]}, 400, "must be from 0 to"),
    ("a negative id", {"prompt": [-1, 3]}, 400, "must be from 0 to"),
    ("the id of an unknown character", {"prompt": [9, 3]}, 400, "not in the training text"),
    ("half of a surrogate pair", b'{"prompt": "\\ud800"}', 400, "half of a surrogate pair"),
    ("a prompt beyond the limit", {"prompt": "a" * 41}, 400, "has 41 tokens: at most 40"),
    ("max_tokens beyond the limit", {"max_tokens": 51}, 400, "at most 50 are allowed"),
    ("max_tokens 0", {"max_tokens": 0}, 400, "must be at least 1, except with echo"),
    ("max_tokens -5", {"max_tokens": -5}, 400, "max_tokens is -5: it must be at least 0"),
    ("max_tokens 1.5", {"max_tokens": 1.5}, 400, "max_tokens is 1.5: it must be a whole number"),
    ("max_tokens as text", {"max_tokens": "5"}, 400, "max_tokens is the text '5'"),
    ("temperature -1", {"temperature": -1}, 400, "temperature is -1: it must be at least 0"),
    ("temperature NaN", b'{"temperature": NaN}', 400, "temperature is nan: it must be a finite number"),
    ("temperature as text", {"temperature": "hot"}, 400, "temperature is the text 'hot'"),
    ("top_p 0", {"top_p": 0}, 400, "top_p is 0: it must be above 0"),
    ("top_p 1.5", {"top_p": 1.5}, 400, "top_p is 1.5: it must be at most 1"),
    ("top_k 0", {"top_k": 0}, 400, "top_k is 0: it must be at least 1"),
    ("min_p 2", {"min_p": 2}, 400, "min_p is 2: it must be at most 1"),
    ("n 0", {"n": 0}, 400, "n is 0: it must be at least 1"),
    ("more samples than can wait", {"n": 7}, 400, "at most 6 texts"),
    ("logprobs true", {"logprobs": True}, 400, "logprobs is True: it must be a whole number"),
    ("logprobs 21", {"logprobs": 21}, 400, "logprobs is 21: it must be at most 20"),
    ("echo 1", {"echo": 1}, 400, "echo is 1: it must be true or false"),
    ("a negative seed", {"seed": -1}, 400, "seed is -1: it must be at least 0"),
    ("an empty stop string", {"stop": ""}, 400, "A stop string is empty"),
    ("a stop that is a number", {"stop": 5}, 400, "stop is 5: it must be a text"),
    ("17 stop strings", {"stop": ["a"] * 17}, 400, "stop has 17 strings"),
    ("stream_options without stream", {"stream_options": {"include_usage": True}}, 400, "needs stream"),
    ("unknown stream_options", {"stream": True, "stream_options": {"x": 1}}, 400, "stream_options must be"),
    ("copies of a run without a corpus", {"no_copy_ngram": 5}, 400, "is not there any more"),
]  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from tests.conftest import reciting

    with serving(reciting("abcdefgh", kind="char"), limits=LIMITS, api_key=None) as http:
        yield http


def answers(http: Any) -> bool:
    found = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 3, "temperature": 0})
    return bool(found.json()["choices"][0]["text"] == "bcd")


@pytest.mark.parametrize(
    ("body", "status", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_bad_request_gets_one_clear_error(client: Any, body: Any, status: int, message: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert found.status_code == status
    error = found.json()["error"]
    assert message in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in found.text
    assert answers(client)


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/nothing", {}, 404),
        ("GET", "/v1/completions", {}, 405),
        ("DELETE", "/v1/models", {}, 405),
        ("GET", "/v1/models/other", {}, 404),
        ("GET", "/../../etc/passwd", {}, 404),
        ("GET", "/..%2f..%2fetc/passwd", {}, 404),
        ("GET", "/page/app.js", {}, 404),
        ("POST", "/v1/completions", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST", "/v1/completions", {"data": {"prompt": "a"}}, 415),
        ("POST", "/v1/copied", {"json": {"ids": []}}, 400),
        ("POST", "/v1/copied", {"json": {"ids": "abc"}}, 400),
        ("POST", "/v1/copied", {"json": {"ids": [10**9]}}, 400),
        ("POST", "/v1/copied", {"json": {"ids": [3], "after": 2}}, 400),
        ("POST", "/v1/copied", {"json": {"ids": [3], "file": "/etc/passwd"}}, 400),
    ],
)
def test_a_wrong_address_or_method_gets_a_json_error(
    client: Any, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    found = client.request(method, path, **options)
    assert found.status_code == status
    assert found.json()["error"]["message"]


def test_a_foreign_host_name_is_refused(client: Any) -> None:
    """DNS rebinding: a page of evil.example whose name now leads to this machine."""
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_other_origins_get_no_permission_unless_they_were_named(client: Any, reciter: Any) -> None:
    origin = {"Origin": "https://page.example"}
    headers = "authorization, content-type"
    ask = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=origin).headers
    assert client.options("/v1/completions", headers=ask).status_code == 405
    with serving(reciter("abc"), cors=["https://page.example"]) as http:
        found = http.options("/v1/completions", headers=ask)
        assert found.status_code == 200
        assert "POST" in found.headers["access-control-allow-methods"]
        assert found.headers["access-control-allow-origin"] == "https://page.example"
        other = http.get("/v1/models", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_an_api_key_is_needed_for_all_but_the_page(reciter: Any, serve: Serve) -> None:
    with serve(reciter("abc"), api_key="sécret") as http:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sécret".encode()}):
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/copied")):
                found = http.request(method, path, headers=given)
                assert found.status_code == 401
                assert found.json()["error"]["code"] == "invalid_api_key"
        assert http.get("/v1/models", headers={"Authorization": "Bearer sécret".encode()}).status_code == 200
        assert http.get("/").status_code == http.get("/app.js").status_code == 200


def test_texts_beyond_the_queue_get_429_and_the_others_their_answer(reciter: Any, serve: Serve) -> None:
    body = {"prompt": "a", "max_tokens": 100_000, "temperature": 0, "stream": True}
    limits = {"max_batch": 1, "max_queue": 1, "max_tokens": 100_000}
    with (
        serve(reciter("abcdefgh", kind="char"), limits=limits) as http,
        http.stream("POST", "/v1/completions", json=body) as first,
    ):
        lines = first.iter_lines()
        next(lines)
        with http.stream("POST", "/v1/completions", json=body) as second:  # it waits
            refused = http.post("/v1/completions", json=body)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "queue_full"
            assert second.status_code == 200
        assert next(line for line in lines if line)


def test_a_defect_gets_a_json_error_without_its_reason(
    reciter: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(reciter("abc")) as http:
        monkeypatch.setattr("gptscratch.serve.models.count_parameters", lambda _: {}["secret"])
        found = http.get("/v1/models")
        assert found.status_code == 500
        assert found.json()["error"]["message"] == "The server failed; its messages say why."


def test_the_page_opens_no_connection_to_another_host(client: Any) -> None:
    page = client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for file in ("/", "/style.css", "/app.js", "/api.js", "/sample.js", "/token.js", "/element.js"):
        text = client.get(file).text
        assert "http://" not in text
        assert "https://" not in text
