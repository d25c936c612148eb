"""The body of a request, checked field by field: unknown fields and wrong values are refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gptscratch.config import SampleConfig
from gptscratch.config.setting import Setting, setting, settings_of
from gptscratch.errors import ConfigError, did_you_mean
from gptscratch.serve.errors import ApiError

Prompt = str | list[int]

_DEFAULTS = {"max_tokens": 16, "temperature": 1.0}  # OpenAI's, where those of ``sample`` differ
_MOST_STOPS = 16
_IGNORED = ("user",)
_REFUSED = {
    "suffix": "The models continue texts; they cannot fill a gap.",
    "logit_bias": "Choose tokens with top_k, top_p and min_p.",
    "best_of": "Give n, and choose among the samples.",
}


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """A request for texts that continue prompts."""

    model: str = setting("", None, "Name of the model.")
    n: int = setting(1, None, "Number of samples for each prompt.", at_least=1)
    echo: bool = setting(False, None, "Begin each text with its prompt.")
    stream: bool = setting(False, None, "Send the tokens as they are generated.")
    logprobs: int | None = setting(None, None, "Number of alternatives.", at_least=0, at_most=20)
    return_tokens: bool = setting(False, None, "Add the tokens with their ids.")
    include_usage: bool = False
    prompts: tuple[Prompt, ...] = ("",)
    config: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    max_tokens: int = 16  # 0: nothing but the prompt


def parse_json(body: bytes) -> dict[str, Any]:
    """The object in the body of a request.

    Raises:
        ApiError: it has none.
    """
    try:
        found = json.loads(body)
    except json.JSONDecodeError as error:
        raise ApiError(f"The body is not valid JSON: {error}.") from None
    except UnicodeDecodeError:
        raise ApiError("The body is not valid JSON: it is not UTF-8.") from None
    except (ValueError, RecursionError):
        raise ApiError(
            "The body is not valid JSON: it is nested too deep, or a number is too long."
        ) from None
    if not isinstance(found, dict):
        raise ApiError("The body is not a JSON object.")
    return found


def parse_completion(body: Mapping[str, Any], *, vocab_size: int) -> CompletionRequest:
    """The request in a JSON object; null is the same as a field that is missing.

    Raises:
        ApiError: a field is unknown, not supported, or has a wrong value.
    """
    given = {name: value for name, value in body.items() if value is not None and name not in _IGNORED}
    prompts = parse_prompts(given.pop("prompt", ""), vocab_size=vocab_size)
    include_usage = _include_usage(given.pop("stream_options", {}), stream=given.get("stream") is True)
    if given.get("best_of") == given.get("n", 1):
        given.pop("best_of", None)
    if given.get("logit_bias") == {}:
        given.pop("logit_bias")
    values = _DEFAULTS | {name: parse_field(name, value) for name, value in given.items()}
    own = {name: values.pop(name) for name in settings_of(CompletionRequest) if name in values}
    max_tokens: Any = values["max_tokens"]
    if max_tokens == 0 and not own.get("echo"):
        raise ApiError("max_tokens is 0: it must be at least 1, except with echo.", param="max_tokens")
    try:
        config = SampleConfig(**values | {"max_tokens": max(1, max_tokens)})
    except ConfigError as error:
        raise ApiError(str(error), param="stop") from None  # the other fields were checked
    return CompletionRequest(
        prompts=prompts, config=config, max_tokens=max_tokens, include_usage=include_usage, **own
    )


def parse_field(name: str, value: Any) -> Any:
    """One value, as its setting wants it."""
    if name in _REFUSED:
        raise ApiError(f"{name} is not supported. {_REFUSED[name]}", param=name, code="unsupported_field")
    known = fields()
    if name not in known:
        near = did_you_mean(name, known) or "See docs/server.md for the fields."
        raise ApiError(f"There is no field {name[:100]!r}. {near}", param=name[:100], code="unknown_field")
    each = known[name]
    if isinstance(value, str) and each.kind is not str:
        raise ApiError(f"{name} is the text {value[:40]!r}: it must be a number or a boolean.", param=name)
    try:
        parsed = each.parse([value] if name == "stop" and isinstance(value, str) else value, name)
    except ConfigError as error:
        raise ApiError(str(error), param=name) from None
    if name == "stop" and len(parsed) > _MOST_STOPS:
        raise ApiError(f"stop has {len(parsed)} strings: at most {_MOST_STOPS} are allowed.", param="stop")
    return parsed


@cache
def fields() -> dict[str, Setting]:
    """What a request may have, apart from the prompt."""
    sampling = dict(settings_of(SampleConfig))
    del sampling["num_samples"]
    sampling["max_tokens"] = dataclasses.replace(sampling["max_tokens"], at_least=0)
    return {**settings_of(CompletionRequest), **sampling}


def parse_prompts(prompt: Any, *, vocab_size: int) -> tuple[Prompt, ...]:
    """A text, token ids, or a list of either."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and type(prompt[0]) is int):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise ApiError("The prompt must be a text, a list of token ids, or a list of these.", param="prompt")
    for each in prompt:
        if isinstance(each, str):
            if any("\ud800" <= character <= "\udfff" for character in each):
                raise ApiError("The prompt has half of a surrogate pair.", param="prompt")
        elif not isinstance(each, list) or not each or not all(type(i) is int for i in each):
            raise ApiError("Each prompt must be a text, or a list of token ids.", param="prompt")
        elif not all(0 <= i < vocab_size for i in each):
            raise ApiError(f"A token id must be from 0 to {vocab_size - 1}.", param="prompt")
    return tuple(prompt)


def _include_usage(options: Any, *, stream: bool) -> bool:
    known = isinstance(options, dict) and options.keys() <= {"include_usage"}
    if not known or type(options.get("include_usage", False)) is not bool:
        raise ApiError('stream_options must be {"include_usage": true} or false.', param="stream_options")
    if options and not stream:
        raise ApiError("stream_options needs stream.", param="stream_options")
    return bool(options.get("include_usage", False))
