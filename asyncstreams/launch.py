"""Extractions started by scripts and by the command line, and the exit codes of their outcomes."""

from __future__ import annotations

from enum import IntEnum

from .errors import ConfigError, HostUnavailable, PartialFailure, ThresholdMissed


class ExitCode(IntEnum):
    """The exit codes of `asyncstreams.main` and of the command line."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    HOST_UNAVAILABLE = 4
    THRESHOLD_MISSED = 5
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    TERMINATED = 143


def exit_code_of(error: BaseException | None) -> int:
    """The exit code for the outcome of a run: an exception, or None for a run that is complete."""
    match error:
        case None:
            return ExitCode.DONE
        case SystemExit(code=code):
            return code if isinstance(code, int) else ExitCode.DONE if code is None else ExitCode.FAILED
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case BrokenPipeError():
            return ExitCode.CLOSED_PIPE
        case PartialFailure() | DeadlineReached():
            return ExitCode.PARTIAL
        case ThresholdMissed():
            return ExitCode.THRESHOLD_MISSED
        case HostUnavailable():
            return ExitCode.HOST_UNAVAILABLE
        case ConfigError():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


class DeadlineReached(Exception):
    """The time of a run is over. What was committed stays, and the next run resumes."""
