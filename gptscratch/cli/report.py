"""``gptscratch report``: a page with the curves, samples and facts of runs."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.cli.console import err, notice, out
from gptscratch.config.setting import OUTPUT, setting
from gptscratch.errors import disk_errors, require
from gptscratch.files import write_text

EXAMPLES = """Examples:
  gptscratch report my-run                      writes my-run.html
  gptscratch report tales poems --html two.html both runs in the same charts
  gptscratch report my-run --live               a page that follows the training"""


@o.command()
def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN...]",
            help="Runs by name or folder (default: the newest run).",
            autocompletion=o.run_names,
        ),
    ] = None,
    html: str | None = setting(
        None, OUTPUT, "File to write.", metavar="FILE", default_is="the run's name with .html"
    ),
    live: bool = setting(False, OUTPUT, "Serve the page on 127.0.0.1, and update it while the run trains."),
    port: int | None = setting(
        None, OUTPUT, "Port for --live.", at_least=0, at_most=65535, default_is="any that is free"
    ),
    no_copies: bool = setting(False, OUTPUT, "Generate no texts and search no copies: faster."),
    open: bool = setting(False, OUTPUT, "Open the page in the browser."),
    force: bool = setting(False, OUTPUT, "Overwrite a file that is not a report."),
) -> None:
    """Write one HTML page about runs: curves, samples, copies of the training text, settings.

    The page is one file that needs no connection. Several runs share its charts and are compared.
    """
    from gptscratch import paths

    runs = [paths.find_run(name) for name in dict.fromkeys(names)] if names else [paths.find_run()]
    require(
        not live or not (html or no_copies or force),
        "--live serves the page: --html, --no-copies and --force have no effect with it.",
    )
    require(live or port is None, "--port has no effect without --live.")
    if live:
        _serve(runs, port or 0, browse=open)
        return
    process.passive_openmp_if_busy()
    from gptscratch.report.copies import Copies, measure_copies
    from gptscratch.report.page import is_report, render_page
    from gptscratch.report.record import read_report

    file = Path(html or f"{'-'.join(run.resolve().name for run in runs)[:100]}.html")
    require(not file.is_dir(), f"{file} is a folder.", "Name a file: --html FILE")
    require(
        force or not file.exists() or is_report(file),
        f"{file} exists and is not a report.",
        "Choose another --html FILE, or add --force.",
    )
    reports = [read_report(run) for run in runs]
    copies: list[Copies | str | None] = [None] * len(runs)
    for number, (each, run) in enumerate(zip(reports, runs, strict=True)):
        if each.imported_from:
            notice(f"{each.name} was imported and not trained here: its report has no curves.")
        elif not no_copies:
            with err.status("generating texts and searching them in the training text ..."):
                copies[number] = measure_copies(run)
    page = render_page(reports, copies)
    with disk_errors(f"writing {file}"):
        write_text(file, page)
    out.print(str(file), markup=False)
    if open:
        webbrowser.open(file.resolve().as_uri())


def _serve(runs: list[Path], port: int, *, browse: bool) -> None:
    from gptscratch.report.live import LivePage

    page = LivePage(runs, port=port)
    out.print(page.url, markup=False)
    notice("Ctrl-C ends it.")
    if browse:
        webbrowser.open(page.url)
    try:
        page.serve()
    except KeyboardInterrupt:
        return
