"""``gptscratch serve``: trained models over HTTP, with a web page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptscratch import paths
from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.config.setting import ADVANCED, NETWORK, setting
from gptscratch.errors import ConfigError, MissingExtraError, require

if TYPE_CHECKING:
    from gptscratch.generation.generator import Generator

EXAMPLES = """Examples:
  gptscratch serve                        the newest run, at http://127.0.0.1:8000
  gptscratch serve tales letters          two runs, to be compared on the page
  gptscratch serve tales@1000 tales@4000  two checkpoints of a run, by their steps
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
    listener = listen(host, port)
    generators = _load(runs or [None], quantize=quantize, device=device, dtype=dtype)
    limits = Limits(
        max_batch=max_batch, max_queue=max_queue, max_tokens=max_tokens, max_prompt_tokens=max_prompt_tokens
    )
    shown = f"[{host}]" if ":" in host else host
    hosts = [*LOOPBACK, shown] if local else ["*"]
    app = make_app(generators, limits=limits, api_key=api_key, hosts=hosts, cors=cors)
    err.print(
        f"Serving {', '.join(generators)} at http://{shown}:{listener.getsockname()[1]}", highlight=False
    )
    err.print("Ctrl-C stops the server.", style="dim")
    run(app, listener, on_stop=lambda: notice("Finishing what runs; press Ctrl-C again to stop at once."))


def _load(
    runs: list[str] | list[None], *, quantize: str | None, device: str, dtype: str
) -> dict[str, Generator]:
    """A generator for each run, by the name that requests use."""
    from gptscratch.cli import loading

    found: dict[str, Generator] = {}
    for run in runs:
        name, _, step = (run or "").rpartition("@")
        by_step = bool(name) and step.isdigit()
        path = str(paths.checkpoint_dir(paths.find_run(name), int(step))) if by_step else run
        generator = loading.load(path, quantize=quantize, device=device, dtype=dtype)
        assert generator.checkpoint is not None
        named = by_step or (run is not None and Path(run).name == generator.checkpoint.name)
        step = generator.checkpoint.name.removeprefix("step-").lstrip("0") or "0"
        key = f"{generator.run.name}@{step}" if named else generator.run.name
        if key in found:
            raise ConfigError(f"{key} is given twice.")
        found[key] = generator
    return found
