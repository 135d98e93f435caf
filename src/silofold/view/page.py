"""The report as one HTML file: figures drawn into it, no script, nothing to load, light, dark and print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from silofold.core.console import shown
from silofold.view import drawing, text

if TYPE_CHECKING:
    from collections.abc import Mapping


class Drawing(NamedTuple):
    """A figure of the page: its name (also of the exported file), what it shows, and how it is drawn."""

    name: str
    title: str
    draw: drawing.Draw
    small: bool = False
    """One of many, drawn small."""

    def html(self) -> Markup:
        """Draw it for the page, wide and narrow; the style sheet shows one of them."""
        title = str(escape(shown(self.title)))
        widths = {"one": drawing.SMALL} if self.small else {"wide": drawing.WIDE, "narrow": drawing.NARROW}
        drawn = [
            f'<div class="{kind}">{drawing.svg(self.draw, width, f"{self.name}-{kind}", title)}</div>'
            for kind, width in widths.items()
        ]
        return Markup("".join(drawn))  # noqa: S704  (matplotlib escapes what it writes, the title is escaped above)


def render(content: Mapping[str, Any]) -> str:
    """Fill the page's template; every text is escaped, control characters in names too."""
    engine = jinja2.Environment(
        loader=jinja2.PackageLoader("silofold.view", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters |= {
        "percent": text.percent, "points": text.points, "chance": text.chance, "size": text.size, "span": text.span,
        "number": text.number,
    }  # fmt: skip
    engine.globals |= {
        "interval": text.interval,
        "light": drawing.variables(drawing.LIGHT),
        "dark": drawing.variables(drawing.DARK),
    }
    return engine.get_template("report.html.jinja").render(content)
