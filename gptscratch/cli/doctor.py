"""``gptscratch doctor``: what is wrong with a run, and which option to change."""

from __future__ import annotations

from typing import Annotated

from rich.markup import escape

from gptscratch.accelerate import process
from gptscratch.cli import options as o
from gptscratch.cli.console import err, facts, notice, out, print_json
from gptscratch.config.setting import OUTPUT, setting

EXAMPLES = """Examples:
  gptscratch doctor                 the newest run
  gptscratch doctor book --json"""


@o.command()
def doctor(
    run: Annotated[str | None, o.Run] = None,
    no_copies: bool = setting(False, OUTPUT, "Generate no texts: the rules about texts are left out."),
    json: bool = o.JSON,
) -> None:
    """Diagnose a run: overfitting, learning rate, length, sizes, speed, copies and repeats."""
    process.passive_openmp_if_busy()
    from gptscratch import paths
    from gptscratch.report.copies import measure_copies
    from gptscratch.report.doctor import diagnose
    from gptscratch.report.record import read_report

    folder = paths.find_run(run)
    report, copies = read_report(folder), None
    if report.imported_from:
        notice(
            f"{report.name} was imported from {report.imported_from} and not trained here: nothing can be "
            f"diagnosed. gptscratch train CORPUS --init-from {report.name} trains it."
        )
    elif not no_copies:
        with err.status("generating texts and searching them in the training text ..."):
            copies = measure_copies(folder)
        if isinstance(copies, str):
            notice(f"The rules about texts are left out. {copies}")
    found = diagnose(report, copies)
    if json:
        print_json(found)
        return
    for finding in found:
        out.print(f"[bold yellow]{escape(finding.name)}[/]")
        facts(out, [("evidence", finding.evidence), ("meaning", finding.meaning), ("advice", finding.advice)])
    if not found and not report.imported_from:
        out.print(f"Nothing was found that is wrong with {report.name}.", markup=False)
