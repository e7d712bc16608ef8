"""What several people pay, score or travel: one sum for each person, then a conclusion over all sums."""

from __future__ import annotations

from random import Random
from typing import Any

from pastalm.tasks.assembly import LAYOUTS, TERSE, arrange, assemble, in_order, listed, opening, told_apart
from pastalm.tasks.matching import ends_well, fits, marks_fit, read, sums_hold
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.words import NAMES

GOODS = {
    "shop": ("pears", "plums", "figs", "pens", "cups", "mugs", "socks", "hats", "cakes", "books", "stamps", "lamps"),
    "game": ("darts", "hoops", "goals", "cards", "coins", "stars", "balls", "rings", "tiles", "throws"),
    "trip": ("walks", "rides", "runs", "drives", "hikes", "sails", "tours", "swims"),
}
UNITS = {"shop": "{q} {item} at {p}", "game": "{q} {item} worth {p}", "trip": "{q} {item} of {p} miles"}
DOES = {"shop": "buys", "game": "gets", "trip": "makes"}
RESULT = {"shop": "pays", "game": "scores", "trip": "covers"}
SETTINGS = {
    "shop": ("Some friends go shopping.", "This is what was bought at the market.", "Here are the baskets.", ""),
    "game": ("Some friends play a game.", "These are the results of the game.", "The score sheet is here.", ""),
    "trip": ("Some friends travel around.", "These are the trips of the week.", "Here is the travel log.", ""),
}
ASKS = {
    "sum": (
        "What is the total of each person, and of all together?",
        "Add up each person, then everything.",
        "Work out every single total and at last the grand total.",
        "How much is it for each one, and how much in all?",
        "Give the sum for each person and the sum of all sums.",
    ),
    "most": (
        "Work out each total. Who {result} most?",
        "Add up each person and say who {result} the most.",
        "Who comes out on top? Show the sum of each person.",
        "Find the person with the highest total, with every sum written out.",
        "How much is it for each one, and who {result} most?",
    ),
}
PATTERNS = (
    "{setting} {data} {ask}",
    "{ask} {setting} {data}",
    "{setting} {ask}\n{data}",
    "{data}\n{setting} {ask}",
    "{setting}\n{data}\n{ask}",
    "{ask}\n\n{data}",
    "{data}\n\n{ask}",
    "Please help me to count. {setting} {data}\n{ask}",
    "Question: {ask}\nNotes: {data}",
)
# How a prompt gives an item, and what joins two; without a form it is given as in the answer.
ITEMS = ("", "", "{item} {q} x {p}", "{q} x {p} for {item}", "{item} ({q} x {p})")
JOINTS = (" and ", " and ", ", ", " plus ", " + ")
RECORDS = ("{name} {does} {all}.", "{name}: {all};", "\n{name}: {all}", "\n- {name} {does} {all}")

STYLES = (
    "{name} {does} {which}. In total this is {adding} for {name}.",
    "For {name}, {make}. Adding up, {adding} for {name}.",
)
CLOSES = {
    "sum": (
        "All together: {running}. That makes {total}.",
        "Now the sum of all: {running}. So the answer is {total}.",
    ),
    "most": (
        "Who has most? {way}. So {name} has the most.",
        "Now we compare: {way}. At the top is {name}.",
    ),
}
INTROS = {
    "sum": ("The {n} totals, and then all together:", "We count each of the {n}, and at the end the sum of all."),
    "most": ("The {n} totals, and then who has most:", "We count each of the {n}, and then see who is at the top."),
}

People = list[dict[str, Any]]


def one_or_many(quantity: int, item: str) -> str:
    """The item's name as it stands after its quantity."""
    return item if quantity > 1 else item.removesuffix("s")


def running(numbers: list[int]) -> str:
    """A sum built up number by number: ``12 + 10 = 22, 22 + 6 = 28``."""
    steps, total = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    return ", ".join(steps)


def total_of(person: dict[str, Any]) -> int:
    """What a person's items come to."""
    return sum(quantity * price for quantity, _, price in person["items"])


def written(form: str, item: tuple[int, str, int]) -> str:
    """An item in a form, such as ``3 pears at 4``."""
    quantity, name, price = item
    text = form.format(q=quantity, item=one_or_many(quantity, name), p=price)
    return text.replace(" 1 miles", " 1 mile")


def person_text(style: int, kind: str, person: dict[str, Any]) -> str:
    """The sum of one person."""
    items = person["items"]
    units = [written(UNITS[kind], item) for item in items]
    products = [quantity * price for quantity, _, price in items]
    makes = [f"{'makes' if quantity == 1 else 'make'} {quantity * price}" for quantity, _, price in items]
    return STYLES[style].format(
        name=person["name"],
        does=DOES[kind],
        which=listed([f"{unit}, which is {product}" for unit, product in zip(units, products, strict=True)], ", and "),
        make=listed([f"{unit} {make}" for unit, make in zip(units, makes, strict=True)]),
        adding=running(products),
    )


def conclusions(facts: dict[str, Any], terse: bool) -> list[str]:
    """All ways to conclude; ``terse`` ones do not bring the totals in order."""
    names, totals = [p["name"] for p in facts["people"]], [total_of(p) for p in facts["people"]]
    way = in_order(list(zip(names, totals, strict=True)), "most", terse=terse)
    fill = {"running": running(totals), "total": sum(totals), "way": way}
    return [close.format(**fill, name=names[totals.index(max(totals))]) for close in CLOSES[facts["goal"]]]


def draw_people(rng: Random, kind: str, count: int) -> People:
    """``count`` people with their items; the totals are easily told apart."""
    while True:
        people = [
            {"name": name, "items": [[rng.randint(1, 5), item, rng.randint(1, 9)] for item in items]}
            for name in rng.sample(NAMES, count)
            for items in [rng.sample(GOODS[kind], 2)]
        ]
        if told_apart([total_of(person) for person in people]):
            return people


def draw_data(rng: Random, kind: str, people: People) -> str:
    """The people's items as the prompt gives them."""
    form, item_form, joint = rng.choice(RECORDS), rng.choice(ITEMS) or UNITS[kind], rng.choice(JOINTS)
    records = [
        form.format(name=p["name"], does=DOES[kind], all=joint.join(written(item_form, item) for item in p["items"]))
        for p in people
    ]
    return ("" if form.startswith("\n") else " ").join(records).removesuffix(";")


def draw(rng: Random) -> Draft:
    """A few people, their items, and the question about them."""
    kind, goal = rng.choice(tuple(GOODS)), rng.choice(("sum", "most"))
    people = draw_people(rng, kind, 4 if goal == "most" else rng.choice((4, 5)))  # its conclusion is the longer one
    facts = {"kind": kind, "goal": goal, "people": people}
    setting, ask = rng.choice(SETTINGS[kind]), rng.choice(ASKS[goal]).format(result=RESULT[kind])
    order, prompt = arrange(rng, PATTERNS, setting=setting, ask=ask, data=draw_data(rng, kind, people))
    style = rng.randrange(len(STYLES))
    chunks = [Chunk(person["name"], person_text(style, kind, person)) for person in people]
    intro = opening(rng, INTROS[goal], n=len(people))
    parts = assemble(rng.choice(LAYOUTS), intro, chunks, rng.choice(conclusions(facts, rng.random() < TERSE)))
    return Draft(prompt, parts, facts, ("totals", kind, goal, order, style, len(people)))


def known_words(kind: str) -> frozenset[str]:
    """All names and the wares of ``kind``, for one and for many."""
    return frozenset((*NAMES, *(one_or_many(quantity, item) for item in GOODS[kind] for quantity in (1, 2))))


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether each person's sum is there with the right items and numbers, and the conclusion is right."""
    kind, people = facts["kind"], facts["people"]
    ways = [[person_text(style, kind, person) for style in range(len(STYLES))] for person in people]
    words = known_words(kind)
    counted = ["", str(len(people))]  # an opening may say how many
    closes = [*conclusions(facts, False), *conclusions(facts, True)]
    allowed = [[read(way, words) for way in part] for part in (counted, *ways, closes)]
    formed = ends_well(text) and marks_fit(text, len(people))
    return formed and sums_hold(text) and fits(read(text, words), allowed)


FAMILY = Family("totals", forks=True, draw=draw, check=check)
