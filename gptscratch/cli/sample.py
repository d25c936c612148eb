"""``gptscratch sample``: text from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptscratch.accelerate import process as threads
from gptscratch.cli import loading
from gptscratch.cli import options as o
from gptscratch.config import SampleConfig
from gptscratch.errors import ConfigError

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator


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
    no_repeat_ngram: Annotated[
        int, typer.Option(help="So many tokens in a row never come twice.", metavar="N")
    ] = SampleConfig.no_repeat_ngram,
    no_copy_ngram: Annotated[
        int, typer.Option(help="Never so many tokens in a row from the training tokens.", metavar="N")
    ] = SampleConfig.no_copy_ngram,
    novelty: Annotated[
        bool, typer.Option("--novelty", help="Show the longest span that stands in the training tokens.")
    ] = False,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends it, \\n for a line end (repeatable).")
    ] = None,
    num_samples: Annotated[
        int, typer.Option("-n", "--num-samples", help="How many.")
    ] = SampleConfig.num_samples,
    seed: Annotated[int | None, typer.Option("-s", "--seed", help="The same seed, the same text.")] = None,
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="A prompt at a time.")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print when all is done.")] = False,
    json: o.Json = False,
    logprobs: Annotated[
        int | None, typer.Option(help="With each token, in JSON, the K likeliest.", metavar="K", min=0)
    ] = None,
    color: Annotated[bool, typer.Option("--color", help="Shade each token by the model's surprise.")] = False,
    quantize: o.Quantize = None,
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
        presence_penalty=presence_penalty, no_repeat_ngram=no_repeat_ngram, no_copy_ngram=no_copy_ngram,
        stop=tuple(map(loading.unescaped, stop or ())), num_samples=num_samples, seed=seed,
    )  # fmt: skip
    _refuse_contradictions(
        prompts=prompts, out=out, interactive=interactive, stdin="-" in (prompt, prompt_file)
    )
    threads.sleep_while_waiting_on_busy_machines()
    given = prompt is not None or prompt_file is not None
    text = loading.read_prompt(prompt, prompt_file) if given or not (interactive or prompts) else ""
    from gptscratch.cli import chat, render_sample

    with render_sample.whoever_reads():
        gpt = loading.load(checkpoint, quantize=quantize, device=device, dtype=dtype)
        if no_copy_ngram or novelty:
            gpt = loading.with_copies(gpt)
        flags = {"--json": json, "--no-stream": no_stream, "--num-samples": num_samples > 1}
        if prompts and out:
            render_sample.no_effect("beside --prompts", {"--prompt": given, "--color": color, **flags})
            _continue_each(gpt, str(prompts), knobs, out, n_best=logprobs, novelty=novelty)
        elif interactive:
            render_sample.no_effect("beside --interactive", {"--logprobs": logprobs is not None, **flags})
            chat.run(gpt, knobs, opening=text, color=color, novelty=novelty)
        elif json:
            render_sample.no_effect("beside --json", {"--color": color})
            _as_json(gpt, text, knobs, n_best=logprobs, novelty=novelty)
        else:
            render_sample.no_effect("without --json", {"--logprobs": logprobs is not None})
            _as_text(gpt, text, knobs, at_once=no_stream, color=color, novelty=novelty)


def _refuse_contradictions(*, prompts: Path | None, out: Path | None, interactive: bool, stdin: bool) -> None:
    if (prompts is None) != (out is None):
        raise ConfigError(
            "--prompts and --out go together.", "As in --prompts questions.txt --out said.jsonl"
        )
    if interactive and prompts:
        raise ConfigError("--interactive and --prompts are both given.", "Take one of them.")
    if interactive and stdin:
        raise ConfigError("--interactive reads stdin itself.", "Give the prompt as --prompt TEXT.")


def _continue_each(
    gpt: Generator, file: str, knobs: SampleConfig, out: Path, *, n_best: int | None, novelty: bool
) -> None:
    from gptscratch.cli import render_sample
    from gptscratch.generation.batch_file import complete_file

    prompts = loading.read_lines(file)
    render_sample.progress(
        complete_file(gpt, prompts, knobs, out, n_best=n_best, novelty=novelty), len(prompts)
    )


def _as_json(
    generator: Generator, prompt: str, config: SampleConfig, *, n_best: int | None, novelty: bool
) -> None:
    from gptscratch.cli import render, render_sample
    from gptscratch.generation.memorization import longest_copy

    render_sample.warn_of_unknown(generator, prompt)
    found = list(generator.sample(prompt, config, n_best=n_best))
    values: dict[str, Any] = {"run": generator.run.name, "prompt": prompt}
    values["samples"] = [sample.text for sample in found]
    if n_best is not None:
        values["tokens"] = [sample.tokens for sample in found]
    if novelty:
        values["copied"] = [longest_copy(generator, sample.text, after=prompt) for sample in found]
    render.print_json(values)


def _as_text(
    generator: Generator, prompt: str, config: SampleConfig, *, at_once: bool, color: bool, novelty: bool
) -> None:
    from gptscratch.cli import render_sample
    from gptscratch.generation.memorization import longest_copy

    render_sample.warn_of_unknown(generator, prompt)
    colors = render_sample.colors() if color else None
    n_best = None if colors is None else 0
    if config.num_samples == 1 and not at_once:
        rows = iter([generator.tokens(prompt, config, n_best=n_best)])
    else:
        rows = (iter(sample.tokens) for sample in generator.sample(prompt, config, n_best=n_best))
    for number, row in enumerate(rows, 1):
        if number > 1:
            render_sample.separator()
        text = render_sample.stream(prompt, render_sample.pieces(row), colors=colors)
        if novelty:
            name = f"copied {number}" if config.num_samples > 1 else "copied"
            render_sample.copied(text, longest_copy(generator, text, after=prompt), name=name)
