"""``gptscratch serve``: trained models over HTTP, with a web page."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptscratch import paths
from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.config.setting import ADVANCED, NETWORK, setting
from gptscratch.errors import CheckpointError, MissingExtraError, require

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator

EXAMPLES = """Examples:
  gptscratch serve                        the newest run, at port 8000
  gptscratch serve tales letters          two runs, to be compared on the page
  gptscratch serve tales@1000 tales@4000  two checkpoints of a run
  gptscratch serve tales --host 0.0.0.0 --api-key SECRET"""


@o.command()
def serve(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Runs, or folders of runs or checkpoints; NAME@STEP: one checkpoint (default: newest run).",
            show_default=False, autocompletion=o.run_names,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", metavar="KEY", envvar="GPTSCRATCH_API_KEY", rich_help_panel=NETWORK,
            help="Key that clients must send as Authorization: Bearer KEY.", show_default=False,
        ),
    ] = None,
    host: str = setting(
        "127.0.0.1", NETWORK, "Address to listen at; one that other machines can reach needs --api-key.",
        metavar="ADDRESS",
    ),
    port: int = setting(8000, NETWORK, "Port; 0 takes a free one.", at_least=0, at_most=65535),
    cors: tuple[str, ...] = setting(
        (), NETWORK, "Origin whose pages may use the server, such as https://example.org (repeatable).",
        metavar="ORIGIN",
    ),
    max_batch: int | None = setting(
        None, ADVANCED, "Texts that are decoded together.", at_least=1,
        default_is="16, fewer for large models",
    ),
    max_queue: int = setting(64, ADVANCED, "Texts that wait; more get status 429.", at_least=0),
    max_tokens: int = setting(4096, ADVANCED, "Longest text in new tokens.", at_least=1),
    max_prompt_tokens: int = setting(16384, ADVANCED, "Longest prompt in tokens.", at_least=1),
    quantize: str | None = o.QUANTIZE,
    device: str = o.DEVICE,
    dtype: str = o.DTYPE,
) -> None:  # fmt: skip
    """Serve trained models over HTTP: an API as OpenAI's completions, and a page to try them.

    Requests are decoded together. Ctrl-C finishes those that have arrived.
    """
    process.passive_openmp_if_busy()
    try:
        import uvicorn  # noqa: F401
        from starlette.applications import Starlette  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "starlette", "serve") from None
    from gptscratch.cli.console import err, notice
    from gptscratch.serve.app import LOOPBACK, make_app
    from gptscratch.serve.models import Limits
    from gptscratch.serve.server import is_loopback, listen, run

    local = is_loopback(host)
    require(
        local or bool(api_key), f"--host {host} lets other machines use the server.",
        "Choose a secret: --api-key SECRET",
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    hosts = [*LOOPBACK, shown] if local else ["*"]
    limits = Limits(
        max_batch=max_batch, max_queue=max_queue, max_tokens=max_tokens, max_prompt_tokens=max_prompt_tokens
    )
    with listen(host, port) as listener:  # before the models are loaded, which takes a while
        rows = max_batch or 16
        generators = _load(runs or [None], quantize=quantize, device=device, dtype=dtype, rows=rows)
        app = make_app(generators, limits=limits, api_key=api_key, hosts=hosts, cors=cors)
        address = f"http://{shown}:{listener.getsockname()[1]}"
        err.print(f"Serving {', '.join(generators)} at {address}", highlight=False, soft_wrap=True)
        err.print("Ctrl-C stops the server.", style="dim")
        stopping = "Finishing what runs; press Ctrl-C again to stop at once."
        run(app, listener, on_stop=lambda: notice(stopping))


def _load(
    runs: list[str] | list[None], *, quantize: str | None, device: str, dtype: str, rows: int
) -> dict[str, Generator]:
    """A generator for each run, by the name that requests use."""
    import torch

    from gptscratch.cli import loading

    threads = torch.get_num_threads()
    found: dict[str, Generator] = {}
    for run in runs:
        place = _checkpoint(run)
        generator = loading.load(place, quantize=quantize, device=device, dtype=dtype, rows=rows)
        name = generator.run.name
        if run is not None and run != name and generator.checkpoint is not None:
            step = int(generator.checkpoint.name.removeprefix("step-"))
            one = place != run or Path(run).name == generator.checkpoint.name
            name = f"{name}@{step}" if one else name
        if run is not None and name in found:  # a run of the same name in another folder
            is_same = _weights(generator) in map(_weights, found.values())
            require(not is_same and run not in found, f"The model {run} is given twice.")
            name = run
        found[name] = generator
    if not all(loading.is_small(generator.model.config) for generator in found.values()):
        torch.set_num_threads(threads)  # a small model takes a single one, which slows a large one
    return found


def _weights(generator: Generator) -> tuple[Path, ...]:
    """The folders of its run and of its checkpoint."""
    return tuple(folder.resolve() for folder in (generator.run, generator.checkpoint) if folder is not None)


def _checkpoint(run: str | None) -> str | None:
    """The folder of NAME@STEP; other names are found as by all commands."""
    name, _, step = (run or "").rpartition("@")
    if not name or not step.isdecimal():
        return run
    with contextlib.suppress(CheckpointError):
        paths.find_run(run)
        return run  # the name of a run may have this form
    saved = dict(paths.checkpoints(paths.find_run(name)))
    steps = ", ".join(map(str, saved))
    require(int(step) in saved, f"The run {name} has no checkpoint of step {step}.", f"Its steps: {steps}.")
    return str(saved[int(step)])
