"""The command line's frame: the commands, and how an error reaches the user.

Each command is a file of its own and a name here. None imports torch before it runs, so that
``--help`` is there at once.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import gptscratch
from gptscratch import distributed, paths
from gptscratch.cli import console
from gptscratch.errors import ConfigError, RunError, UserError, did_you_mean

# Typer reports what it cannot parse with click's exceptions; newer versions carry a copy of click.
_ClickException: Any = typer.BadParameter.__mro__[2]

COMMANDS = ("train", "sample", "serve", "score", "eval_", "export", "import_", "tokenize", "info", "compare",
            "report", "doctor")  # fmt: skip
GROUPS = ("runs", "cache")
INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it
OTHER_NAMES = {"ls": "info", "list": "info", "show": "info", "generate": "sample", "run": "sample",
               "chat": "sample --interactive", "evaluate": "eval", "rm": "runs rm",
               "mv": "runs rename", "rename": "runs rename"}  # fmt: skip


class Commands(TyperGroup):
    """The commands, with a hint where the name is one that other programs use."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        names = self.list_commands(ctx)
        if name in OTHER_NAMES:
            hint = f"Did you mean: gptscratch {OTHER_NAMES[name]}"
        else:
            hint = did_you_mean(name, names) or f"The commands: {', '.join(names)}."
        raise ConfigError(f"There is no command {name!r}.", hint)


app = typer.Typer(
    cls=Commands,
    name="gptscratch",
    help="Train a small GPT on your own text with one command.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for name in COMMANDS:
    module = import_module(f"gptscratch.cli.{name}")
    command = getattr(module, name)
    paragraphs = inspect.cleandoc(command.__doc__).split("\n\n")
    app.command(
        name.rstrip("_"),
        help=console.plain("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)),
        epilog=console.plain(getattr(module, "EXAMPLES", "")),
    )(command)
for name in GROUPS:
    app.add_typer(import_module(f"gptscratch.cli.{name}").app, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        for name, value in versions():
            print(f"{name:<11}{value}", flush=True)
        raise typer.Exit


def versions() -> Iterator[tuple[str, str]]:
    """The version and the machine, for bug reports; the version is printed before torch is imported."""
    yield "gptscratch", gptscratch.__version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "home", str(paths.home())
    import torch

    from gptscratch.device import pick_device, pick_dtype
    from gptscratch.units import plural

    device = pick_device("auto")
    threads = plural(torch.get_num_threads(), "thread")
    cpu = f"{torch.backends.cpu.get_cpu_capability()}, {threads}"
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    yield "torch", torch.__version__
    yield "device", f"{device.type} ({what}), {dtype}"


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("-V", "--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Train a small GPT on your own text with one command."""


def main() -> None:
    """Run the command line. Exit code 0: fine, 1: failed, 2: the user's input, 130: interrupted."""
    console.prepare_streams()
    if any(name.startswith("_GPTSCRATCH_COMPLETE") for name in os.environ):
        app(prog_name="gptscratch")  # the shell asks for completions
    code = _exit_code(sys.argv[1:])
    if code == INTERRUPTED:
        with contextlib.suppress(OSError, AttributeError):
            sys.stdout.flush()
        os._exit(code)  # a thread of a library may still be at work, which would abort the interpreter
    sys.exit(code)


def _exit_code(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    try:
        code = app(arguments, prog_name="gptscratch", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # while an error can still be reported
        return int(code or 0)
    except UserError as error:
        problem = error
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        # Rich and Typer end the program themselves once the reader of the output has gone.
        gone = isinstance(end.__context__, BrokenPipeError)
        return 0 if gone else end.code if isinstance(end.code, int) else 1
    except MemoryError:
        problem = RunError("There is not enough memory.", "End other programs, or use smaller files.")
    except OSError as error:
        console.drop_output()
        if isinstance(error, BrokenPipeError):
            return 0
        what = error.filename or "The output cannot be written"
        kind = ConfigError if error.errno == errno.ENAMETOOLONG else RunError
        problem = kind(f"{what}: {error.strerror or error}.")
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help was printed
            return 2
        problem = _usage_error(error)
    if distributed.world().is_first_to_report():
        console.error(problem)
    return problem.exit_code


def _usage_error(error: Any) -> UserError:
    """Errors of Typer about the arguments, in the form of all errors."""
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else 'gptscratch'} --help shows what can be given."
    option = getattr(error, "param", None)
    if hasattr(error, "possibilities") and context is not None:
        known = [flag for p in context.command.params for flag in (*p.opts, *p.secondary_opts)]
        near = did_you_mean(error.option_name, known)
        return ConfigError(f"There is no option {error.option_name}.", near or hint)
    if isinstance(error, typer.BadParameter) and option is not None and error.message:
        return ConfigError(f"{max(option.opts, key=len)}: {error.message.rstrip('.')}.", hint)
    return ConfigError(error.format_message(), hint)
