"""``gptscratch sample``: text from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gptscratch.accelerate import process
from gptscratch.cli import loading
from gptscratch.cli import options as o
from gptscratch.config import SampleConfig
from gptscratch.config.setting import COPYING, OUTPUT, PROMPT, setting
from gptscratch.errors import require

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator

EXAMPLES = """Examples:
  gptscratch sample -p "Once upon a time"               the newest run
  gptscratch sample tales -p "Lily" -t 0.7 -k 40 -n 3   three samples
  gptscratch sample tales --interactive                 prompt after prompt
  gptscratch sample tales --prompts in.txt --out out.jsonl"""


@o.command(SampleConfig)
def sample(
    run: Annotated[str | None, o.Run] = None,
    prompt: str | None = setting(
        None, PROMPT, "Text to continue; - reads it from stdin, as does a pipe.", flag="-p,--prompt"
    ),
    prompt_file: str | None = setting(None, PROMPT, "File with the text to continue.", metavar="FILE"),
    prompts: str | None = setting(None, PROMPT, "File of prompts, one per line.", metavar="FILE"),
    out: str | None = setting(
        None, PROMPT, "File for the results of --prompts, one JSON line each; lines in it are kept.",
        metavar="FILE",
    ),
    interactive: bool = setting(
        False, PROMPT, "Read one prompt after another.", flag="-i,--interactive"
    ),
    novelty: bool = setting(False, COPYING, "Show the longest span copied from the training text."),
    no_stream: bool = setting(False, OUTPUT, "Print the text when it is complete."),
    color: bool = setting(False, OUTPUT, "Shade each token by the model's surprise."),
    logprobs: int | None = setting(
        None, OUTPUT, "Add log-probabilities and the K most likely tokens to the JSON.",
        metavar="K", at_least=0,
    ),
    json: bool = o.JSON,
    quantize: str | None = o.QUANTIZE,
    device: str = o.DEVICE,
    dtype: str = o.DTYPE,
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
    both = "--prompts and --out need each other."
    require((prompts is None) == (out is None), both, "As in --prompts in.txt --out out.jsonl")
    if interactive:
        require(not prompts, "--interactive and --prompts are both given.", "Give one of them.")
        stdin = "-" in (prompt, prompt_file)
        require(not stdin, "--interactive reads stdin itself.", "Give the prompt as --prompt TEXT.")
    process.passive_openmp_if_busy()
    given = prompt is not None or prompt_file is not None
    text = loading.read_prompt(prompt, prompt_file) if given or not (interactive or prompts) else ""
    generator = loading.load(run, quantize=quantize, device=device, dtype=dtype, rows=config.num_samples)
    if config.no_copy_ngram or novelty:
        generator = loading.with_training_tokens(generator)
    from gptscratch.cli import chat, console, render_sample
    from gptscratch.generation.batch_file import complete_file

    idle = {"--color": color, "--no-stream": no_stream}
    many = {"--json": json, "--num-samples": config.num_samples > 1}
    if prompts and out:
        console.no_effect("with --prompts", {"--prompt": given, **idle, **many})
        lines = loading.read_lines(prompts)
        done = complete_file(generator, lines, config, Path(out), n_best=logprobs, novelty=novelty)
        render_sample.progress(done, len(lines))
    elif interactive:
        no_effect = {"--logprobs": logprobs is not None, "--no-stream": no_stream, **many}
        console.no_effect("with --interactive", no_effect)
        chat.run(generator, config, opening=text, color=color, novelty=novelty)
    elif json:
        console.no_effect("with --json", idle)
        _as_json(generator, text, config, n_best=logprobs, novelty=novelty)
    else:
        console.no_effect("without --json", {"--logprobs": logprobs is not None})
        _as_text(generator, text, config, at_once=no_stream, color=color, novelty=novelty)


def _as_json(
    generator: Generator, prompt: str, config: SampleConfig, *, n_best: int | None, novelty: bool
) -> None:
    from gptscratch.cli import console, render_sample
    from gptscratch.generation.memorization import longest_copy

    render_sample.warn_of_unknown(generator, prompt)
    found = list(generator.sample(prompt, config, n_best=n_best))
    values: dict[str, Any] = {"run": generator.run.name, "prompt": prompt}
    values["samples"] = [sample.text for sample in found]
    if n_best is not None:
        values["tokens"] = [sample.tokens for sample in found]
    if novelty:
        values["copied"] = [longest_copy(generator, sample.text, after=prompt) for sample in found]
    console.print_json(values)


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
