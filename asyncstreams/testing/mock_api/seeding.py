"""What does chance decide: always the same for the same seed, and for any record without those before it."""

from __future__ import annotations

from hashlib import blake2b

_MASK = (1 << 64) - 1


def key(seed: int, *names: object) -> int:
    """64 bits that belong to these names under this seed, whatever PYTHONHASHSEED says."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def draw(key: int, number: int) -> int:
    """64 bits for the n-th draw under a key (splitmix64)."""
    bits = (key + number * 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)


def share(key: int, number: int) -> float:
    """The n-th draw as a number from 0 up to, but not including, 1."""
    return (draw(key, number) >> 11) / (1 << 53)
