"""What is told where records have more fields than any table has columns?"""

from __future__ import annotations

from ..errors import OutputWriteError


def too_many_columns(count: int, most: int) -> OutputWriteError:
    """Of an output with columns."""
    return OutputWriteError(
        f"its records have {count:,} different fields, and a table has {most:,} columns at most",
        hint="fields that are named after data belong into one of their own, as an object: "
        "parse_response can put them there; or JsonLines takes any record",
    )
