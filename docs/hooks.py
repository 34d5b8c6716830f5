"""What mkdocs does beside building: it refuses a page that would load something from elsewhere."""

import re
from pathlib import Path
from typing import Any

# What a browser loads by itself; a link that somebody has to click is none of it.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b[^>]*?\bhref=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|@import\s+(?:url\()?[\"']?((?:https?:)?//[^\"')\s]+)"
    r"|url\([\"']?((?:https?:)?//[^\"')\s]+)"
)


def loaded_from_elsewhere(text: str) -> list[str]:
    """The addresses of what a page, or a style sheet, loads from other hosts."""
    return [next(filter(None, found)) for found in LOADED.findall(text)]


def on_post_build(config: Any) -> None:
    """Look at all that was built.

    Raises:
        RuntimeError: a page needs the network to be seen.
    """
    site = Path(config["site_dir"])
    pages = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    lost = {
        f"{path.relative_to(site)}: {address}"
        for path in pages
        for address in loaded_from_elsewhere(path.read_text(encoding="utf-8"))
    }
    if lost:
        raise RuntimeError("loaded from elsewhere: " + "; ".join(sorted(lost)))
