"""``sample --interactive``: a prompt at a time, each continued on its own."""

from __future__ import annotations

import contextlib

from gptscratch.cli import render, render_sample
from gptscratch.config import SampleConfig
from gptscratch.generate import TrainedGPT


def run(gpt: TrainedGPT, knobs: SampleConfig) -> None:
    """Read prompts until the input ends; Ctrl-C stops a reply, Ctrl-D leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its line editing and history
    render.notice(f"{gpt.run.name}: type a beginning and press Enter. Ctrl-C stops a reply, Ctrl-D leaves.")
    while True:
        try:
            text = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        render_sample.warn_of_unknown(gpt, text)
        with contextlib.suppress(KeyboardInterrupt):
            render_sample.stream(text, gpt.stream(text, knobs))
        print()
