"""What a command writes to stderr, and the exit code with which it ends."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from ..clock import SystemClock
from ..errors import OutputWriteError
from ..launch import ExitCode, exit_code_of, failure_lines
from ..models import Secret
from ..redaction import RevealedSecrets
from ..visible_text import escape_controls

Outlook = Callable[[BaseException], Sequence[str]]


class CommandOutput:
    """The stderr of one command: every text is without the secrets of the configuration and without control characters.

    outlook: after a failure, the lines that say what is safe in the output and what the next run will do.
    summary: what the run did, as lines below those of its failure.
    `quiet` shows failures only. With `as_json` each message is a JSON object on a line of its own.
    """

    def __init__(self, *, debug: bool = False, quiet: bool = False, as_json: bool = False) -> None:
        self.debug, self.quiet, self.as_json = debug, quiet, as_json
        self.secrets = RevealedSecrets()
        self.outlook: Outlook = lambda error: ()
        self.summary: Sequence[str] = ()

    def hide(self, value: str) -> None:
        """Mask a text in everything that is shown from now on."""
        self.secrets.reveal(Secret(value))

    def shown(self, text: str) -> str:
        """The text without secrets and control characters; line breaks stay."""
        return "\n".join(map(escape_controls, self.secrets.mask(text).expandtabs().split("\n")))

    def note(self, text: str, level: int = logging.INFO) -> None:
        """Show a message of one or more lines."""
        if self.quiet and level < logging.ERROR:
            return
        shown = self.shown(text)
        with suppress(OSError, ValueError):  # a closed stderr must not hide the outcome
            print(self.to_json(level, shown) if self.as_json else shown, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Show a warning."""
        self.note(text if self.as_json else f"warning: {text}", logging.WARNING)

    def fail(self, error: BaseException) -> None:
        """Show what failed, where, what is safe and what comes next; with `debug` the traceback before it."""
        if self.debug:
            self.note("".join(traceback.format_exception(error)).rstrip(), logging.ERROR)
        lines = [*failure_lines(error), *(f"  {line}" for line in self.outlook(error))]
        self.note("\n".join(lines), logging.ERROR)
        if self.summary:
            self.note("\n".join(self.summary), logging.ERROR)

    def to_json(self, level: int, message: str, **fields: str) -> str:
        """One line of JSON; the time is in UTC."""
        time = datetime.fromtimestamp(SystemClock().wall(), UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time, "level": logging.getLevelName(level), "message": message, **fields})


@contextmanager
def command_output(*, debug: bool = False, quiet: bool = False, as_json: bool = False) -> Generator[CommandOutput]:
    """The body of a command: its exceptions become lines on stderr, and SystemExit with the exit code.

    stdout is flushed at the end. A closed pipe ends the command quietly.
    """
    output = CommandOutput(debug=debug, quiet=quiet, as_json=as_json)
    try:
        yield output
        _flush_stdout()
    except BrokenPipeError:
        discard_stdout()
        sys.exit(ExitCode.CLOSED_PIPE)
    except SystemExit as error:
        if error.code == ExitCode.TERMINATED:
            output.fail(error)
        raise
    except (KeyboardInterrupt, Exception) as error:
        if _is_exit(error):
            raise
        output.fail(error)
        sys.exit(exit_code_of(error))


def discard_stdout() -> None:
    """Send what Python still holds for stdout nowhere: it would fail again when the process ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def stdout_error(error: OSError) -> OutputWriteError:
    """The error of a stdout that takes no more, such as a file on a full disk."""
    return OutputWriteError(
        f"stdout: cannot be written: {error.strerror or type(error).__name__}", hint="check the free space there"
    )


def _flush_stdout() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise stdout_error(error) from error


def _is_exit(error: BaseException) -> bool:
    """Whether an exception of typer ends the command in an orderly way; it has the exit code itself."""
    return type(error).__module__.partition(".")[0] in ("typer", "click")
