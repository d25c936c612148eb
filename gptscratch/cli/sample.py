"""``gptscratch sample``: text from a trained model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptscratch.cli import options as o
from gptscratch.config import SampleConfig
from gptscratch.errors import ConfigError

if TYPE_CHECKING:
    from gptscratch.generation import TrainedGPT

_SMALL = 4_000_000  # parameters in blocks


def sample(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[CKPT]", help="Run name, run folder or checkpoint folder; none: the newest run."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", help="What to go on from; - or none: stdin.")
    ] = None,
    prompt_file: Annotated[
        str | None, typer.Option(help="A file with the prompt; -: stdin.", metavar="FILE")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file of prompts, one a line; needs --out.", metavar="FILE")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON lines, one a prompt; goes on where it ends.", metavar="FILE")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="New tokens.")] = SampleConfig.max_tokens,
    temperature: Annotated[
        float, typer.Option("-t", "--temperature", help="0: greedy.")
    ] = SampleConfig.temperature,
    top_k: Annotated[int | None, typer.Option("-k", "--top-k", help="Keep the k likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest that together reach p.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Keep those at least p times as likely as the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: tokens already seen become less likely.")
    ] = SampleConfig.repetition_penalty,
    frequency_penalty: Annotated[
        float, typer.Option(help="Less likely with each time that it was drawn.")
    ] = SampleConfig.frequency_penalty,
    presence_penalty: Annotated[
        float, typer.Option(help="Less likely once it was drawn.")
    ] = SampleConfig.presence_penalty,
    no_repeat: Annotated[
        int, typer.Option(help="So many tokens in a row never come twice.", metavar="N")
    ] = SampleConfig.no_repeat,
    no_copy: Annotated[
        int, typer.Option(help="Never so many tokens in a row from the training tokens.", metavar="N")
    ] = SampleConfig.no_copy,
    novelty: Annotated[
        bool, typer.Option("--novelty", help="Show the longest span that stands in the training tokens.")
    ] = False,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends it (repeatable).")] = None,
    num_samples: Annotated[
        int, typer.Option("-n", "--num-samples", help="How many.")
    ] = SampleConfig.num_samples,
    seed: Annotated[int | None, typer.Option("-s", "--seed", help="The same seed, the same text.")] = None,
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="A prompt at a time.")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print when all is done.")] = False,
    json: o.Json = False,
    quantize: Annotated[
        str | None, typer.Option(help="Smaller weights, on a CPU.", metavar="float16|int8|int4")
    ] = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
) -> None:
    """Sample text from a trained model.

    Filters apply in this order: penalties, temperature, top-k, top-p, min-p. The prompt and
    its continuation go to stdout, all else to stderr.
    """
    knobs = SampleConfig(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty, no_repeat=no_repeat, no_copy=no_copy, stop=tuple(stop or ()),
        num_samples=num_samples, seed=seed,
    )  # fmt: skip
    if (prompts is None) != (out is None):
        raise ConfigError(
            "--prompts and --out go together.", "As in --prompts questions.txt --out said.jsonl"
        )
    text = "" if interactive or prompts else read_prompt(prompt, prompt_file)
    from gptscratch.cli import chat, render_sample
    from gptscratch.prompts import complete_file

    with render_sample.whoever_reads():
        gpt = loaded(checkpoint, quantize=quantize, device=device, dtype=dtype)
        if no_copy or novelty:
            gpt = with_copies(gpt)
        if prompts and out:
            render_sample.progress(
                complete_file(gpt, read_prompt(None, str(prompts)).splitlines(), knobs, out)
            )
            return
        if interactive:
            chat.run(gpt, knobs)
            return
        render_sample.warn_of_unknown(gpt, text)
        if num_samples == 1 and not (json or no_stream):
            texts = [render_sample.stream(text, gpt.stream(text, knobs))]
        else:
            texts = gpt.samples(text, knobs)
        copied = [gpt.copied(new) for new in texts] if novelty else None
        if num_samples > 1 or json or no_stream:
            render_sample.samples(text, texts, run=gpt.run, copied=copied, json=json)
        if copied and not json:
            render_sample.copied(copied)


def with_copies(gpt: TrainedGPT) -> TrainedGPT:
    """With the index of the run's training tokens."""
    from gptscratch.checkpoint import read_run
    from gptscratch.data.shards import open_tokens
    from gptscratch.novelty import CopyIndex

    tokens = open_tokens(read_run(gpt.run).tokens)
    return dataclasses.replace(gpt, copies=CopyIndex.open(tokens.folder, tokens.train))


def loaded(
    checkpoint: str | None, *, quantize: str | None, device: str | None, dtype: str | None
) -> TrainedGPT:
    """The model, made fast for sampling; a small one gets a single thread, since it waits for a second."""
    import torch

    from gptscratch.checkpoint import load

    gpt = load(checkpoint, device=device or "auto", dtype=dtype or "float32")
    if sum(parameter.numel() for parameter in gpt.model.blocks.parameters()) < _SMALL:
        torch.set_num_threads(1)
    return gpt.for_sampling(quantize=quantize)


def read_prompt(prompt: str | None, file: str | None) -> str:
    """What was given, or stdin where it is no terminal. The last line end of stdin is no part of it."""
    if prompt is not None and file is not None:
        raise ConfigError("--prompt and --prompt-file are both given.", "Take one of them.")
    if prompt is not None and prompt != "-":
        return prompt
    if file is not None and file != "-":
        try:
            return Path(file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read: {error}.") from None
    asked = prompt or file
    if sys.stdin is None or (sys.stdin.isatty() and not asked):
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"What stands on stdin cannot be read: {error}.") from None
