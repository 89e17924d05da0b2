"""The picture of a run report in the documentation, drawn by Chromium from a made-up run.

`python scripts/draw_report.py` writes docs/images/report.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from browser import run_browser  # noqa: E402
from recorded_runs import shop_run  # noqa: E402

from asyncstreams.observability.report import render_html  # noqa: E402

IMAGE = ROOT / "docs" / "images" / "report.png"
WIDTH = 1280
LAST_SHOWN = "ceilings"
DISCARD_PORT = 9  # the page connects to nothing


def main() -> None:
    with TemporaryDirectory() as folder, run_browser(Path(folder, "profile"), DISCARD_PORT) as browser:
        page = Path(folder, "report.html")
        page.write_text(render_html(shop_run()), "utf-8")
        browser.open(page, width=WIDTH)
        bottom = browser.evaluate(f"document.getElementById('{LAST_SHOWN}').getBoundingClientRect().bottom")
        browser.screenshot(IMAGE, WIDTH, round(bottom) + 24)
    print(f"{IMAGE.relative_to(ROOT)}: {IMAGE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
