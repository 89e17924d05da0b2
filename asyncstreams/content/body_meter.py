"""Byte counts of a body while it is decoded, checked against its limits."""

from __future__ import annotations

from ..errors import ResponseTooLarge
from ..models import BodyLimits

_MIN_RATIO_BYTES = 2**20


class BodyMeter:
    """The received bytes of a body, and the bytes after each of its decoding stages."""

    def __init__(self, limits: BodyLimits, stages: int) -> None:
        self._limits = limits
        self.wire = 0
        self._decoded = [0] * stages

    def count_wire(self, count: int) -> None:
        """Count received bytes. Raises ResponseTooLarge."""
        self.wire += count
        if self.wire > self._limits.wire:
            raise wire_exceeded(self._limits)
        if not self._decoded and self.wire > self._limits.decoded:
            raise decoded_exceeded(self._limits)

    def count_decoded(self, stage: int, count: int) -> None:
        """Count the output of a stage. Raises ResponseTooLarge."""
        self._decoded[stage] += count
        decoded = self._decoded[stage]
        if decoded > self._limits.decoded:
            raise decoded_exceeded(self._limits)
        if decoded > _MIN_RATIO_BYTES and decoded > self.wire * self._limits.ratio:
            raise body_too_large(
                f"sent {self.wire:,} bytes that decode to {decoded:,} or more", "ratio", self._limits.ratio
            )

    def decoded(self, stage: int) -> int:
        """Bytes that a stage has produced so far."""
        return self._decoded[stage]


def wire_exceeded(limits: BodyLimits) -> ResponseTooLarge:
    """The error for more received bytes than the limit."""
    return body_too_large(f"sent more than {limits.wire:,} bytes", "wire", limits.wire)


def decoded_exceeded(limits: BodyLimits) -> ResponseTooLarge:
    """The error for more decoded bytes than the limit."""
    return body_too_large(f"sent a body of more than {limits.decoded:,} bytes", "decoded", limits.decoded)


def body_too_large(problem: str, bound: str, value: int) -> ResponseTooLarge:
    """The error for a body beyond one of the limits; `bound` is the name of its setting."""
    return ResponseTooLarge(
        problem,
        hint=f"if that is expected, set body_limits = BodyLimits({bound}=...), now {value:,}; "
        "to keep memory use low, make parse_response an async generator, which reads the body as a stream",
    )
