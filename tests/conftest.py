"""How do the tests run: the same examples each time; `pytest --hypothesis-profile=random` looks for new ones."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("steady", derandomize=True, database=None)
settings.register_profile("random", derandomize=False)
settings.load_profile("steady")
