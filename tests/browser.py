"""Look at a page as a reader would: in headless Chromium, at two widths, light and dark, with every fault it reports.

    python tests/browser.py report.html --out screenshots [--crop 1280x1400]

Needs ``pip install playwright`` and a Chromium; playwright's own download is not needed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
WIDTHS = {"desktop": 1280, "phone": 390}


class Seen(NamedTuple):
    """What the browser found."""

    faults: list[str]
    requests: list[str]
    overflow: dict[str, int]
    """Pixels by which the page is wider than the window, by view."""
    shots: list[Path]


def look(page_file: Path, out: Path, height: int | None = None) -> Seen:
    """Open a page in each view and take a picture of it.

    Parameters
    ----------
    page_file
        The HTML file.
    out
        Folder for the pictures.
    height
        Height of the pictures; the whole page if there is none.
    """
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    seen = Seen([], [], {}, [])
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, width in WIDTHS.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height or 900},
                    color_scheme=scheme,
                    device_scale_factor=1,
                    offline=True,
                )
                page = context.new_page()
                page.on("console", lambda message: seen.faults.append(f"console: {message.text}"))
                page.on("pageerror", lambda error: seen.faults.append(f"error: {error}"))
                page.on("request", lambda request: seen.requests.append(request.url))
                page.goto(page_file.resolve().as_uri())
                beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                seen.overflow[f"{name}-{scheme}"] = beyond
                seen.shots.append(out / f"{name}-{scheme}.png")
                page.screenshot(path=seen.shots[-1], full_page=height is None)
                context.close()
        browser.close()
    return seen


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Pictures of a page in headless Chromium, and its complaints.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--height", type=int, help="height of the pictures (default: the whole page)")
    arguments = parser.parse_args()
    seen = look(arguments.page, arguments.out, arguments.height)
    others = [url for url in seen.requests if not url.startswith(("file:", "data:"))]
    for line in [*seen.faults, *(f"request: {url}" for url in others)]:
        print(line)
    print(f"faults: {len(seen.faults)}, network requests: {len(others)}, pixels too wide: {seen.overflow}")
    print(*seen.shots, sep="\n")
    return 1 if seen.faults or others or any(seen.overflow.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
