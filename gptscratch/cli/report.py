"""``gptscratch report``: a page with the curves, samples and facts of runs."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.cli.console import err, notice, out
from gptscratch.errors import ConfigError, disk_errors

EXAMPLES = """Examples:
  gptscratch report my-run                      writes my-run.html
  gptscratch report tales poems --html two.html both runs in the same charts
  gptscratch report my-run --live               a page that is updated while the run trains"""


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN...]",
            help="Runs by name or folder (default: the newest run).",
            autocompletion=o.run_names,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        o.option("--html", help="File to write (default: the run's name with .html).", metavar="FILE"),
    ] = None,
    live: Annotated[
        bool, o.option("--live", help="Serve the page on 127.0.0.1, and update it while the run trains.")
    ] = False,
    port: Annotated[
        int | None, o.option("--port", help="Port for --live (default: any that is free).", metavar="N")
    ] = None,
    no_samples: Annotated[
        bool, o.option("--no-copies", help="Generate no texts and search no copies: faster.")
    ] = False,
    open_: Annotated[bool, o.option("--open", help="Open the page in the browser.")] = False,
    force: Annotated[bool, o.option("--force", help="Overwrite a file that is not a report.")] = False,
) -> None:
    """Write one HTML page about runs: curves, samples, copies of the training text, settings.

    The page is one file that needs no connection. Several runs share its charts and are compared.
    """
    from gptscratch import paths

    runs = [paths.find_run(name) for name in dict.fromkeys(names)] if names else [paths.find_run()]
    if live and (html or no_samples or force):
        raise ConfigError("--live serves the page: --html, --no-copies and --force have no effect with it.")
    if port is not None and not live:
        raise ConfigError("--port has no effect without --live.")
    if port is not None and not 0 <= port < 1 << 16:
        raise ConfigError(f"--port is {port}: it must be from 0 to 65535.")
    if live:
        _serve(runs, port or 0, open_=open_)
        return
    process.passive_openmp_if_busy()
    from gptscratch.report.copies import measure_copies
    from gptscratch.report.page import is_report, render_page
    from gptscratch.report.record import read_report

    file = html or Path(f"{'-'.join(run.resolve().name for run in runs)[:100]}.html")
    if file.is_dir():
        raise ConfigError(f"{file} is a folder.", "Name a file: --html FILE")
    if file.exists() and not force and not is_report(file):
        raise ConfigError(
            f"{file} exists and is not a report.", "Choose another --html FILE, or add --force."
        )
    reports = [read_report(run) for run in runs]
    copies = {}
    if not no_samples:
        with err.status("generating texts and searching them in the training text ..."):
            copies = {each.name: measure_copies(run) for each, run in zip(reports, runs, strict=True)}
    page = render_page(reports, copies)
    from gptscratch.files import write_text

    with disk_errors(f"writing {file}"):
        write_text(file, page)
    out.print(str(file), markup=False)
    if open_:
        webbrowser.open(file.resolve().as_uri())


def _serve(runs: list[Path], port: int, *, open_: bool) -> None:
    from gptscratch.report.live import LivePage

    page = LivePage(runs, port=port)
    out.print(page.url, markup=False)
    notice("Ctrl-C ends it.")
    if open_:
        webbrowser.open(page.url)
    try:
        page.serve()
    except KeyboardInterrupt:
        return
