"""``gptscratch sample``: text from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gptscratch.accelerate import process
from gptscratch.cli import loading
from gptscratch.cli import options as o
from gptscratch.config import SampleConfig
from gptscratch.config.setting import COPYING, OUTPUT, PROMPT
from gptscratch.errors import ConfigError

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator

EXAMPLES = """Examples:
  gptscratch sample -p "Once upon a time"               the newest run
  gptscratch sample tales -p "Lily" -t 0.7 -k 40 -n 3   three samples
  gptscratch sample tales --interactive                 prompt after prompt
  gptscratch sample tales --prompts in.txt --out out.jsonl"""


@o.settings_from(SampleConfig)
def sample(
    run: Annotated[str | None, o.Run] = None,
    prompt: Annotated[
        str | None,
        o.option(
            "-p", "--prompt",
            help="Text to continue; - reads it from stdin, as does a pipe.", panel=PROMPT, metavar="TEXT",
        ),
    ] = None,
    prompt_file: Annotated[
        str | None,
        o.option("--prompt-file", help="File with the text to continue.", panel=PROMPT, metavar="FILE"),
    ] = None,
    prompts: Annotated[
        str | None,
        o.option("--prompts", help="File of prompts, one per line.", panel=PROMPT, metavar="FILE"),
    ] = None,
    out: Annotated[
        Path | None,
        o.option(
            "--out",
            help="File for the results of --prompts, one JSON line each. Lines it has are not made again.",
            panel=PROMPT, metavar="FILE",
        ),
    ] = None,
    interactive: Annotated[
        bool, o.option("-i", "--interactive", help="Read one prompt after another.", panel=PROMPT)
    ] = False,
    novelty: Annotated[
        bool,
        o.option("--novelty", help="Show the longest span copied from the training text.", panel=COPYING),
    ] = False,
    no_stream: Annotated[
        bool, o.option("--no-stream", help="Print the text when it is complete.", panel=OUTPUT)
    ] = False,
    color: Annotated[
        bool, o.option("--color", help="Shade each token by the model's surprise.", panel=OUTPUT)
    ] = False,
    logprobs: Annotated[
        int | None,
        o.option(
            "--logprobs",
            help="Add log-probabilities and the K most likely tokens to the JSON.",
            panel=OUTPUT, metavar="K",
        ),
    ] = None,
    json: o.Json = False,
    quantize: o.Quantize = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    *,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Sample text from a trained model.

    Applied in this order: repetition and copying, temperature, top-k, top-p, min-p. The prompt and its
    continuation go to stdout, everything else to stderr.
    """
    config = SampleConfig(
        **settings | {"stop": [loading.unescaped(text) for text in settings.get("stop", ())]}
    )
    _check(prompts=prompts, out=out, interactive=interactive, stdin="-" in (prompt, prompt_file))
    if logprobs is not None and logprobs < 0:
        raise ConfigError(f"--logprobs is {logprobs}: it must not be negative.")
    process.passive_openmp_if_busy()
    given = prompt is not None or prompt_file is not None
    text = loading.read_prompt(prompt, prompt_file) if given or not (interactive or prompts) else ""
    generator = loading.load(run, quantize=quantize, device=device, dtype=dtype)
    if config.no_copy_ngram or novelty:
        generator = loading.with_training_tokens(generator)
    from gptscratch.cli import chat, render_sample
    from gptscratch.generation.batch_file import complete_file

    idle = {"--json": json, "--no-stream": no_stream, "--num-samples": config.num_samples > 1}
    if prompts and out:
        render_sample.no_effect("with --prompts", {"--prompt": given, "--color": color, **idle})
        lines = loading.read_lines(prompts)
        done = complete_file(generator, lines, config, out, n_best=logprobs, novelty=novelty)
        render_sample.progress(done, len(lines))
    elif interactive:
        render_sample.no_effect("with --interactive", {"--logprobs": logprobs is not None, **idle})
        chat.run(generator, config, opening=text, color=color, novelty=novelty)
    elif json:
        render_sample.no_effect("with --json", {"--color": color})
        _as_json(generator, text, config, n_best=logprobs, novelty=novelty)
    else:
        render_sample.no_effect("without --json", {"--logprobs": logprobs is not None})
        _as_text(generator, text, config, at_once=no_stream, color=color, novelty=novelty)


def _check(*, prompts: str | None, out: Path | None, interactive: bool, stdin: bool) -> None:
    if (prompts is None) != (out is None):
        raise ConfigError("--prompts and --out need each other.", "As in --prompts in.txt --out out.jsonl")
    if interactive and prompts:
        raise ConfigError("--interactive and --prompts are both given.", "Give one of them.")
    if interactive and stdin:
        raise ConfigError("--interactive reads stdin itself.", "Give the prompt as --prompt TEXT.")


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
    n_best = 0 if colors else None
    if config.num_samples == 1 and not at_once:
        rows = iter([generator.tokens(prompt, config, n_best=n_best)])
    else:
        rows = (iter(sample.tokens) for sample in generator.sample(prompt, config, n_best=n_best))
    for number, tokens in enumerate(rows, 1):
        if number > 1:
            print("---")
        text = render_sample.stream(prompt, render_sample.characters(tokens), colors=colors)
        if novelty:
            name = f"copied {number}" if config.num_samples > 1 else "copied"
            render_sample.copied(text, longest_copy(generator, text, after=prompt), name=name)
