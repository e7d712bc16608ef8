"""What the task families share when they write: articles, listings, list layouts and the order of a prompt's pieces."""

from __future__ import annotations

from random import Random

from pastalm.tasks.task import Chunk

# For each layout, the pairs of (what separates two chunks, the mark before a chunk).
LAYOUTS = {
    "numbered": (("\n", "{}. "), ("\n", "{}) ")),
    "bullets": (("\n", "- "), ("\n", "* ")),
    "plain": (("\n", ""), ("\n\n", "")),
    "running": ((" ", ""),),
}

# How a prompt asks for a layout; a running text is never asked for here.
WISHES = {
    "numbered": ("Use a numbered list.", "Number the parts.", "Give a numbered list.", "Please number them."),
    "bullets": ("Use bullets.", "Use a bullet list.", "Give one bullet for each.", "Bullets, please."),
    "plain": ("No list marks.", "Start a new line for each.", "Plain lines, please.", "Do not use a list."),
}

ORDERS = (
    "{ask} {wish}\n{records}",
    "{records}\n{ask} {wish}",
    "{ask}\n{records}\n{wish}",
    "{records}\n\n{ask} {wish}",
    "{wish} {ask}\n\n{records}",
)

HEADERS = ("", "", "", "Notes:\n", "Data:\n", "Input:\n", "Here is the data.\n")


def article(word: str) -> str:
    """The word with its indefinite article."""
    return f"an {word}" if word[0].lower() in "aeiou" else f"a {word}"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def draw_layout(rng: Random) -> tuple[str, str]:
    """A layout and the prompt's wish for it, which is empty about half of the time."""
    layout = rng.choice(tuple(LAYOUTS))
    wish = rng.choice(WISHES[layout]) if layout in WISHES and rng.random() < 0.6 else ""
    return layout, wish


def laid_out(rng: Random, layout: str, intro: str, chunks: list[Chunk]) -> tuple[str | Chunk, ...]:
    """The intro and the chunks, with separators and list marks between them."""
    gap, mark = rng.choice(LAYOUTS[layout])
    parts: list[str | Chunk] = []
    for position, chunk in enumerate(chunks):
        before = intro if position == 0 else ""
        lead = before + (gap if position or intro else "") + mark.format(position + 1)
        parts += [lead, chunk] if lead else [chunk]
    return tuple(parts)


def arranged(rng: Random, ask: str, records: str, wish: str = "") -> str:
    """A prompt of its pieces, in one of several orders."""
    order = rng.choice(ORDERS).format(ask=ask, records=rng.choice(HEADERS) + records, wish=wish)
    return "\n".join(line.strip() for line in order.strip().split("\n"))
