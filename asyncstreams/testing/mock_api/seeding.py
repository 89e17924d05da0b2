"""Random numbers that depend only on the seed, a key and a number, not on earlier draws."""

from __future__ import annotations

from hashlib import blake2b

_MASK = (1 << 64) - 1


def seed_key(seed: int, *names: object) -> int:
    """A 64-bit key for a seed and names. It does not depend on PYTHONHASHSEED."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def draw_bits(key: int, number: int) -> int:
    """64 bits for draw `number` under a key (splitmix64)."""
    bits = (key + number * 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)


def draw_fraction(key: int, number: int) -> float:
    """Draw `number` under a key as a float in [0, 1)."""
    return (draw_bits(key, number) >> 11) / (1 << 53)
