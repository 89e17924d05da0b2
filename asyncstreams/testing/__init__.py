"""What does an author need to test a stream without the network: time that passes at once."""

from .virtual_clock import VirtualClock

__all__ = ["VirtualClock"]
