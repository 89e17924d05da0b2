"""How is a database served by Datasette, in a process of its own?"""

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
    """Its URL; the process ends with the block."""
    told = [str(part) for name, value in settings.items() for part in ("--setting", name, value)]
    command = [sys.executable, "-m", "datasette", "serve", str(database), "--port", "0", *told]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            pytest.fail("datasette did not start:\n" + "".join(said))
        # A pipe that nobody reads would stop the server once it is full.
        drain = Thread(target=deque, args=(process.stderr, 0))
        drain.start()
        yield found[1]
        process.terminate()
        process.wait(10)
        drain.join()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
