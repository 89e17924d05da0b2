"""Failures of a command as a few lines on stderr, and the exit code of the command."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..content.error_text import escape_controls
from ..errors import AsyncStreamsError
from ..launch import DeadlineReached, ExitCode, exit_code_of
from ..models import Secret
from ..redaction import RevealedSecrets

Outlook = Callable[[BaseException], Sequence[str]]
_PACKAGE = str(Path(__file__).parent.parent)


class CommandOutput:
    """What one command shows: every text is without the secrets of the configuration and without control characters.

    outlook: after a failure, the lines that say what is safe in the output and what the next run will do.
    """

    def __init__(self, *, debug: bool = False) -> None:
        self.debug = debug
        self.secrets = RevealedSecrets()
        self.outlook: Outlook = lambda error: ()

    def hide(self, value: str) -> None:
        """Mask a text in everything that is shown from now on."""
        self.secrets.reveal(Secret(value))

    def shown(self, text: str) -> str:
        """The text without secrets and control characters; line breaks stay."""
        return "\n".join(map(escape_controls, self.secrets.mask(text).expandtabs().split("\n")))

    def note(self, text: str) -> None:
        """Show lines on stderr."""
        with suppress(OSError):  # a closed stderr must not hide the outcome
            print(self.shown(text), file=sys.stderr, flush=True)

    def fail(self, error: BaseException) -> None:
        """Show what failed, where, what is safe and what comes next; with `debug` the traceback before it."""
        if self.debug:
            self.note("".join(traceback.format_exception(error)).rstrip())
        lines = _describe(error)
        self.note("\n".join([f"error: {lines[0]}", *lines[1:], *(f"  {line}" for line in self.outlook(error))]))


@contextmanager
def command_output(*, debug: bool = False) -> Generator[CommandOutput]:
    """The body of a command: its exceptions become lines on stderr, and SystemExit with the exit code.

    stdout is flushed at the end. A closed pipe ends the command quietly.
    """
    output = CommandOutput(debug=debug)
    try:
        yield output
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(ExitCode.CLOSED_PIPE)
    except SystemExit:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if not _is_exit(error):
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                _discard_stdout()
            output.fail(error)
            sys.exit(exit_code_of(error))
        raise


def _is_exit(error: BaseException) -> bool:
    """Whether an exception of typer ends the command in an orderly way; it has the exit code itself."""
    return type(error).__module__.partition(".")[0] in ("typer", "click")


def _discard_stdout() -> None:
    """Send what Python still holds for stdout nowhere: it would fail again when the process ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _describe(error: BaseException) -> list[str]:
    """The problem in the first line, then where it is and the hint."""
    match error:
        case KeyboardInterrupt():
            return ["interrupted by Ctrl-C"]
        case AsyncStreamsError():
            return str(error).splitlines()
        case DeadlineReached():
            return [str(error)]
        case OSError(strerror=str(problem)):
            name = f"{error.filename}: " if error.filename else ""
            return [f"{name}{problem}"]
        case _:
            hint = [] if not (where := _author_frame(error)) else [f"  at: {where}"]
            return [f"{type(error).__name__}: {error}", *hint, "  hint: --debug shows the traceback"]


def _author_frame(error: BaseException) -> str:
    """The last line of code outside of this package that the exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_PACKAGE) and frame.filename[:1] != "<"]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""
