"""Tags inside published texts: who may read which part of a scenario or a goal.

The life of a text: authors wrap parts of it, `<extra_info>...</extra_info>` for what the reader should know besides,
`<p viewer="environment">...</p>` for what only that viewer may read; `visible` leaves of it what one reader sees.
"""

import re
from collections.abc import Iterator

NAMES = ("extra_info", "strategy_hint", "clarification_hint", "p", "root")
EVERYBODY = None  # the viewer who is nobody in particular

_TAG = re.compile(r"""<(/?)([a-zA-Z_]\w*)((?:\s+\w+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*>""")
_VIEWER = re.compile(r"""\bviewer\s*=\s*["']([^"']*)["']""")


def player(seat: int) -> str:
    """What a `viewer` attribute calls a seat."""
    return f"agent_{seat}"


def _pieces(text: str) -> Iterator[tuple[str, list[str]]]:
    """The text between tags, each piece with the viewers it is reserved for."""
    viewers, at = [], 0  # the viewer that each open tag names, "" if none
    for tag in _TAG.finditer(text):
        yield text[at : tag.start()], [viewer for viewer in viewers if viewer]
        at = tag.end()
        if not tag[1]:
            named = _VIEWER.search(tag[3])
            viewers.append(named[1] if named else "")
        elif viewers:
            viewers.pop()
    yield text[at:], [viewer for viewer in viewers if viewer]


def visible(text: str, viewer: str | None) -> str:
    """The text as a viewer reads it: without tags, and without what is reserved for others.

    Args:
      text: with tags; those left open end with the text.
      viewer: `player(seat)`, or EVERYBODY for what is reserved for nobody.
    """
    return "".join(piece for piece, viewers in _pieces(text) if all(only == viewer for only in viewers))


def what_is_wrong(text: str) -> str | None:
    """Why the tags of a text cannot be trusted, or None if they can."""
    opened = []
    for tag in _TAG.finditer(text):
        if tag[2] not in NAMES:
            return f"has the unknown tag {tag[0]}; tags are {', '.join(NAMES)}"
        if not tag[1]:
            opened.append(tag[2])
        elif not opened or opened.pop() != tag[2]:
            return f"closes {tag[0]} where it is not open"
    return f"never closes <{opened[-1]}>" if opened else None
