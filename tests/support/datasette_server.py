"""A Datasette server for a database, in a separate process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest


@contextmanager
def datasette(database: Path, settings: Mapping[str, object]) -> Iterator[str]:
    """Serve the database until the block ends; yields the URL."""
    options = [str(part) for name, value in settings.items() for part in ("--setting", name, value)]
    command = [sys.executable, "-m", "datasette", "serve", str(database), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    output: list[str] = []
    try:
        for line in process.stderr:
            output.append(line)
            if match := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            pytest.fail("datasette did not start:\n" + "".join(output))
        # Without a reader, a full pipe would block the server.
        drain = Thread(target=deque, args=(process.stderr, 0))
        drain.start()
        yield match[1]
        process.terminate()
        process.wait(10)
        drain.join()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
