"""Completions over HTTP: OpenAI's own client, streams, and what happens when a client leaves."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gptscratch.generation.generator import Generator, load
from gptscratch.generation.memorization import with_training_tokens

from .conftest import Serve


@pytest.fixture
def tale_model(tale: Path) -> Generator:
    return load(tale, device="cpu")


def events(response: Any) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def busy(client: Any) -> int:
    counts = client.get("/health").json()
    return int(counts["running"] + counts["waiting"])


def wait_until_idle(client: Any) -> None:
    end = time.monotonic() + 10
    while busy(client):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_official_client_gets_what_sample_gives(tale_model: Generator, serve: Serve) -> None:
    openai = pytest.importorskip("openai")
    wanted = [
        each.text
        for each in tale_model.sample("the fox", num_samples=2, max_tokens=20, temperature=1, seed=3)
    ]
    with serve(tale_model) as http, openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["tale"]
        assert client.models.retrieve("tale").owned_by == "gptscratch"
        options: dict[str, Any] = {"model": "tale", "prompt": "the fox", "max_tokens": 20, "seed": 3, "n": 2}
        found = client.completions.create(**options)
        assert [choice.text for choice in found.choices] == wanted
        assert [choice.finish_reason for choice in found.choices] == ["length"] * 2
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, 40)
        streamed = ["", ""]
        last = None
        for last in client.completions.create(**options, stream=True, stream_options={"include_usage": True}):
            for choice in last.choices:
                streamed[choice.index] += choice.text
        assert streamed == wanted
        assert last is not None
        assert last.usage.total_tokens == 47
        with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-4'"):
            client.completions.create(model="gpt-4", prompt="a")
        with pytest.raises(openai.BadRequestError, match=r"temperature is -1: it must be at least 0"):
            client.completions.create(model="tale", prompt="a", temperature=-1)


def test_a_text_begins_with_its_prompt_and_has_log_probabilities_on_request(
    tale_model: Generator, serve: Serve
) -> None:
    with serve(tale_model) as http:
        body = {"prompt": "the fox", "max_tokens": 5, "echo": True, "logprobs": 3, "seed": 1}
        choice = http.post("/v1/completions", json=body).json()["choices"][0]
        logprobs = choice["logprobs"]
        assert choice["text"].startswith("the fox")
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert logprobs["text_offset"] == list(range(12))
        assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
        for token, logprob, best in zip(
            logprobs["tokens"][1:], logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True
        ):
            assert best[token] == logprob <= 0
            assert len(best) in (3, 4)
            assert sum(map(math.exp, best.values())) <= 1.001
        scored = http.post("/v1/completions", json=body | {"max_tokens": 0}).json()["choices"][0]
        assert scored["text"] == "the fox"
        assert scored["finish_reason"] == "length"
        assert scored["logprobs"]["token_logprobs"][1:] == pytest.approx(
            logprobs["token_logprobs"][1:7], abs=1e-5
        )
        body = {"prompt": "the fox", "max_tokens": 0, "echo": True}
        assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == "the fox"


@pytest.mark.parametrize(
    ("kind", "text", "prompt", "offsets"),
    [
        ("char", "abcdef", "a☃bc", [0, 2, 3]),  # the vocabulary lacks the snowman
        ("word", "my ball is red", "my  ball ", [0, 4]),
        ("byte", "abcdef", "aé", [0, 1, 1]),
        ("byte", "abcdef", [97, 0xC3], [0, 1]),  # a character that is not complete
        ("byte", "abcdef", "", []),
    ],
)
def test_offsets_are_those_of_the_text(
    reciter: Any, serve: Serve, kind: str, text: str, prompt: Any, offsets: list[int]
) -> None:
    body = {"prompt": prompt, "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 0}
    with serve(reciter(text, kind=kind)) as http:
        choice = http.post("/v1/completions", json=body).json()["choices"][0]
        with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
            parts = [chunk["choices"][0] for chunk in events(response)]
        new = http.post("/v1/completions", json=body | {"echo": False}).json()["choices"][0]
    start = 1 if isinstance(prompt, list) else len(prompt)
    found = choice["logprobs"]["text_offset"]
    assert choice["text"] == choice["text"][:start] + new["text"]
    assert found[: len(offsets)] == offsets
    assert found[len(offsets) :] == [start + offset for offset in new["logprobs"]["text_offset"]]
    assert "".join(part["text"] for part in parts) == choice["text"]
    assert [offset for part in parts for offset in part["logprobs"]["text_offset"]] == found


def test_a_stop_string_that_looks_like_a_list_is_a_string(tale_model: Generator, serve: Serve) -> None:
    body = {"prompt": "the fox", "max_tokens": 20, "temperature": 0}
    with serve(tale_model) as http:
        free, *stopped = (
            http.post("/v1/completions", json=body | more).json()["choices"][0]["text"]
            for more in ({}, {"stop": "[]"}, {"stop": "[1]"}, {"stop": " "})
        )
    assert stopped == [free, free, free.partition(" ")[0]]


def test_a_stream_has_the_parts_of_the_whole_answer(tale_model: Generator, serve: Serve) -> None:
    body = {
        "prompt": ["the fox", "a dog"],
        "max_tokens": 9,
        "echo": True,
        "logprobs": 1,
        "seed": 1,
        "stop": "zz",
    }
    with serve(tale_model) as http:
        whole = http.post("/v1/completions", json=body).json()["choices"]
        with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            chunks = events(response)
    for choice in whole:
        parts = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [
            choice["finish_reason"]
        ]
        for name in ("tokens", "text_offset"):
            assert [each for part in parts for each in part["logprobs"][name]] == choice["logprobs"][name]


def test_a_prompt_may_be_token_ids_and_tokens_come_with_theirs(tale_model: Generator, serve: Serve) -> None:
    ids = tale_model.tokenizer.encode("the fox")
    body = {"max_tokens": 8, "temperature": 0, "return_tokens": True, "echo": True}
    with serve(tale_model) as http:
        text, by_ids = (
            http.post("/v1/completions", json=body | {"prompt": prompt}).json()["choices"][0]
            for prompt in ("the fox", ids)
        )
    assert text == by_ids
    assert [token["id"] for token in text["prompt_tokens"]] == ids
    assert "".join(token["text"] for token in text["tokens"]) == text["text"].removeprefix("the fox")


def test_what_the_model_does_not_read_is_reported(tale_model: Generator, serve: Serve) -> None:
    with serve(tale_model) as http:
        body = {"prompt": "the fox sings here. ☃", "max_tokens": 1}
        found = http.post("/v1/completions", json=body).json()["warnings"]
    assert "has 20 tokens; the model reads the last 16" in found[0]
    assert "'☃'" in found[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_generation(tale_model: Generator, serve: Serve, stream: bool) -> None:
    import httpx

    body = {"prompt": "the", "max_tokens": 10**6, "n": 4, "stream": stream}
    with serve(tale_model, limits={"max_tokens": 10**6, "max_batch": 2}) as http:
        if stream:
            with http.stream("POST", "/v1/completions", json=body) as response:
                lines = response.iter_lines()  # which closes the connection when it is forgotten
                next(lines)
                assert busy(http) == 4
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/completions", json=body, timeout=0.3)
        wait_until_idle(http)


def test_a_stopped_server_finishes_what_it_has_begun(tale_model: Generator, serve: Serve) -> None:
    body = {"prompt": "the", "max_tokens": 400, "seed": 1}
    with ThreadPoolExecutor() as pool:
        with serve(tale_model) as http:
            answer = pool.submit(http.post, "/v1/completions", json=body)
            while not (busy(http) or answer.done()):
                time.sleep(0.001)
        text = answer.result().json()["choices"][0]["text"]
    assert text == tale_model.generate("the", max_tokens=400, temperature=1, seed=1)


def test_copied_spans_are_found_for_each_token(tale_model: Generator, serve: Serve) -> None:
    generator = with_training_tokens(tale_model)
    ids = generator.tokenizer.encode("the fox runs home.zzthe")
    with serve(tale_model) as http:
        found = http.post("/v1/copied", json={"ids": generator.known(ids)}).json()
        later = http.post("/v1/copied", json={"ids": generator.known(ids), "after": 4}).json()
    assert found["longest"]["text"] == "the fox runs home."
    assert found["longest"]["times"] >= 1
    assert found["lengths"][:18] == later["lengths"][:18] == [18] * 18
    assert later["longest"]["text"] == "fox runs home."


def test_a_corpus_that_is_gone_is_reported(
    tale_model: Generator, serve: Serve, home: Path, corpus: Path
) -> None:
    import shutil

    shutil.rmtree(home / "tokens")
    config = tale_model.run / "config.json"
    config.write_text(config.read_text().replace(str(corpus), str(corpus) + ".gone"))
    with serve(tale_model) as http:
        response = http.post("/v1/copied", json={"ids": [3, 4]})
    assert response.json()["error"]["code"] == "no_training_text"
    assert str(home) not in response.text
