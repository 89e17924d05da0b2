"""The instructions of Dockerfiles, and the rules of .dockerignore."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """An instruction of a Dockerfile; `stage` is the number of its FROM, from 0 (before the first one: -1)."""

    stage: int
    name: str
    arguments: str


def read_dockerfile(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, with continued lines joined and comments left out."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stage, found = -1, list[Instruction]()
    for line in joined.splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            stage += name == "FROM"
            found.append(Instruction(stage, name, arguments.strip()))
    return found


def is_ignored(path: str, rules: Sequence[str]) -> bool:
    """Whether a .dockerignore leaves a path of the context out: the last rule that matches it or a parent decides."""
    ignored = False
    for rule in rules:
        parts = re.split(r"(\*\*/|\*|\[\w+\])", rule.lstrip("!"))
        wildcards = {"**/": "(.*/)?", "*": "[^/]*"}
        pattern = "".join(wildcards.get(part, part if part.startswith("[") else re.escape(part)) for part in parts)
        if re.fullmatch(f"{pattern}(/.*)?", path):
            ignored = not rule.startswith("!")
    return ignored
