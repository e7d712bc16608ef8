"""The talk with the annotating model: the language, seven demonstrations, a correction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from pastalm.data.check import MIN_WORDS
from pastalm.lang.parse import parse
from pastalm.lang.prompt import Message
from pastalm.lang.tags import MAX_TOPIC_WORDS

DESCRIPTION = f"""\
You read a question and its finished answer, and you mark the parts of the answer that could have been written at the \
same time, by writers who cannot see each other.

There are two marks, and you add nothing else:
<async topic='..'>..</async> stands around a chunk. Its writer has seen the question, the unmarked text before the \
chunk and the topics of the earlier chunks, but no text of any earlier chunk.
<sync/> means: wait here. Whoever writes on from here has read all chunks so far.

How to work:
1. First decide whether the answer can be written in parallel at all. Code, a chain of reasoning, a story in which one \
event leads to the next, or a short answer cannot. Then give the answer back without any mark; that is common.
2. Otherwise mark the chunks that stand on their own: later text must not need what a chunk says, neither its results \
nor its wording. A sentence with "therefore", "also", "the former" or "this means" mostly leans on what comes before.
3. Where later text does need earlier chunks (a comparison, a total, a conclusion), put one <sync/> straight after the \
last chunk it needs, and leave that text unmarked or mark it after the <sync/>. Use <sync/> sparingly: only where \
something after it needs a chunk before it.
4. A chunk has at least {MIN_WORDS} words. Longer is better: a whole paragraph or item rather than a sentence.
5. A topic has one to {MAX_TOPIC_WORDS} words. It tells the writer what the chunk is about, and tells chunks apart.
6. Chunks do not nest and do not overlap.
7. The marks have no width: take them away, and the answer must be there byte for byte, with every space, line break, \
list mark and slip of the pen. Leave list marks, headings and line breaks outside the chunks.

Reply with the marked answer and with nothing else: no comment, no code fence."""


@dataclass(frozen=True)
class Demonstration:
    """A worked example: what it shows, a question, and its answer in the annotator's form."""

    shows: str
    question: str
    annotated: str

    @property
    def answer(self) -> str:
        """The answer as it is given to the model."""
        return parse(self.annotated).plain


DEMONSTRATIONS = (
    Demonstration(
        "prose",
        "What should I know before I move from a city flat to a house in the country?",
        "Life in the country differs from life in town in more ways than the view. "
        "<async topic='getting around'>Getting around takes planning: buses may run twice a day or not at all, so most "
        "households need a car, and a forgotten carton of milk can cost half an hour on the road.</async> "
        "<async topic='upkeep'>The upkeep of a house is yours alone. Gutters fill with leaves, boilers stop in winter, "
        "and no caretaker lives downstairs, which is why people set aside about one hundredth of the price every "
        "year.</async> "
        "<async topic='neighbours'>Neighbours matter a great deal where there are few of them. Introduce yourself in "
        "the first week, and accept the first invitation even if you are tired.</async>\n\n"
        "<async topic='internet'>Before you sign anything, test the internet connection on the spot, with a telephone "
        "in every room, because the maps of the providers are drawn with a generous hand.</async>",
    ),
    Demonstration(
        "lists",
        "Give me four tips for growing tomatoes on a balcony.",
        "Here are four tips:\n\n"
        "1. **Pot**: <async topic='pot'>Choose a pot that holds at least fifteen litres and has holes in the bottom; "
        "roots that stand in water rot within days.</async>\n"
        "2. **Light**: <async topic='light'>Put the plants where they get six hours of sun, ideally against a wall "
        "that faces south and gives back its warmth in the evening.</async>\n"
        "3. **Water**: <async topic='water'>Water early in the day and always on the soil, never on the leaves, since "
        "wet leaves invite blight.</async>\n"
        "4. **Support**: <async topic='support'>Tie the main stem loosely to a stick every twenty centimetres, so that "
        "wind and fruit do not break it.</async>\n\n"
        "Enjoy your harvest!",
    ),
    Demonstration(
        "a dependent conclusion after a sync",
        "I can rent a flat near the office for 1150 a month or one in the suburbs for 820 with a rail pass of 95 and "
        "rides of 45 minutes each way. Which one would you take?",
        "Let us look at both.\n\n"
        "Near the office: <async topic='office flat'>You pay 1150 a month and nothing for travel. You walk to work, so "
        "you gain time every day, but the rooms are likely to be smaller and the street louder.</async>\n\n"
        "In the suburbs: <async topic='suburb flat'>You pay 820 for the flat and 95 for the rail pass, which makes 915 "
        "a month. You spend an hour and a half on trains every working day, about thirty hours a month.</async><sync/>"
        "\n\n"
        "So the flat near the office costs 235 more and saves you thirty hours a month, which is less than eight an "
        "hour. If you can afford it, I would take the one near the office.",
    ),
    Demonstration(
        "maths",
        "A garden has a rectangular lawn of 12 m by 7 m, a round pond with a radius of 2 m, and a triangular bed with "
        "a base of 6 m and a height of 5 m. How large are the three together?",
        "We find each area and add them up.\n\n"
        "- <async topic='lawn'>The lawn is a rectangle, so its area is 12 * 7 = 84 square metres.</async>\n"
        "- <async topic='pond'>The pond is a circle, so its area is pi * 2^2 = 4 * 3.1416, about 12.57 square metres."
        "</async>\n"
        "- <async topic='bed'>The bed is a triangle, so its area is 6 * 5 / 2 = 15 square metres.</async><sync/>\n\n"
        "Together: 84 + 12.57 + 15 = 111.57. The three take up about 111.6 square metres.",
    ),
    Demonstration(
        "code, where nothing is marked",
        "Write a Python function that returns the most frequent word of a text, and explain it.",
        "```python\n"
        "from collections import Counter\n\n\n"
        "def most_frequent_word(text):\n"
        "    words = text.lower().split()\n"
        "    if not words:\n"
        "        return None\n"
        "    return Counter(words).most_common(1)[0][0]\n"
        "```\n\n"
        "The text is put into lower case and split at white space. For an empty text the function returns `None`; "
        "otherwise `Counter` counts the words, and `most_common(1)` gives a list with one pair of word and count, of "
        "which we take the word.",
    ),
    Demonstration(
        "a short answer, where nothing is marked",
        "Which planet has the shortest year?",
        "Mercury. It goes round the sun in about 88 days.",
    ),
    Demonstration(
        "an answer with two syncs",
        "Our club has 600 to spend on its anniversary. The hall costs 90 and 15 an hour for 6 hours, the band 120 and "
        "travel of 40. How much is left for each of 50 guests, and what could we do with it?",
        "First the fixed costs.\n\n"
        "**Hall**: <async topic='hall cost'>The hall costs 90 plus 6 hours at 15 each, so 90 + 90 = 180.</async>\n"
        "**Band**: <async topic='band cost'>The band takes a fee of 120 and its travel of 40, so 120 + 40 = 160."
        "</async><sync/>\n\n"
        "That is 180 + 160 = 340, and 600 - 340 = 260 are left, or 5.20 for each of the 50 guests. Two ideas for that "
        "sum:\n\n"
        "**Soup and bread**: <async topic='soup supper'>A large pot of vegetable soup with bread and butter comes to "
        "about 3.50 a guest. It can be cooked the day before and needs two helpers and bowls from the hall.</async>\n"
        "**Cake buffet**: <async topic='cake buffet'>If ten members bake, you pay only for coffee, tea and juice, "
        "about 2.00 a guest. It needs more people willing to bake, but no kitchen.</async><sync/>\n\n"
        "Both stay below 5.20, even by 1.70 and 3.20. Together they would cost 5.50, just too much, so I would choose "
        "the soup and spend the 85 that remain on candles and flowers.",
    ),
)


def conversation(messages: Sequence[Message], answer: str) -> list[Message]:
    """The chat that asks for one answer: the description, the demonstrations as turns, then the answer."""
    question = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    return [*_beginning(), {"role": "user", "content": _task(question, answer)}]


@cache
def _beginning() -> tuple[Message, ...]:
    turns = [{"role": "system", "content": DESCRIPTION}]
    for shown in DEMONSTRATIONS:
        turns.append({"role": "user", "content": _task(shown.question, shown.answer)})
        turns.append({"role": "assistant", "content": shown.annotated})
    return tuple(turns)


def correction(reply: str, problems: Iterable[str]) -> list[Message]:
    """The turns that follow an invalid reply: the reply itself, and what the validator says of it."""
    found = "\n".join(f"- {problem}" for problem in problems)
    request = (
        f"Your reply cannot be used:\n{found}\n\n"
        "Reply with the whole marked answer once more. Only add marks, and keep every character of the answer; if you "
        "are not sure that a part is independent, leave it unmarked."
    )
    return [{"role": "assistant", "content": reply}, {"role": "user", "content": request}]


def _task(question: str, answer: str) -> str:
    return f"<question>\n{question}\n</question>\n\n<answer>\n{answer}\n</answer>"
