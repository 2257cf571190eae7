"""A text task that needs no files: short sentences about what somebody wants, whose class only the order of words tells.

Every sentence names two activities of different topics and a template says which one is wanted, so the words alone leave two
classes to choose from.
"""

from __future__ import annotations

import torch

from pfedhr.data.examples import Examples
from pfedhr.seeding import generator

TOPICS: dict[str, str] = {
    "water": "swim dive surf row sail float paddle fish",
    "kitchen": "cook bake fry roast grill knead season taste",
    "music": "sing drum hum whistle compose strum conduct listen",
    "paper": "read write draw print sketch fold bind publish",
    "garden": "plant dig prune water weed harvest mow graft",
    "travel": "drive fly hike cycle ride wander commute trek",
    "workshop": "saw drill weld sand paint carve hammer solder",
    "play": "juggle wrestle gamble bluff guess hide seek race",
}
"""The classes, and the activities of each."""

TEMPLATES = (
    "i want to {wanted} rather than {other}",
    "rather than {other} i want to {wanted}",
    "we {wanted} today and never {other}",
    "instead of {other} let us {wanted} now",
    "please do not {other} before we {wanted}",
    "they {wanted} because they cannot {other}",
    "she would {wanted} if he could not {other}",
    "although we {other} often we prefer to {wanted}",
)

LENGTH = 10
"""Words of a sentence, filled up at its beginning."""

SENTENCES = 6000


def vocabulary() -> dict[str, int]:
    """Return the number of every word, from 1: 0 fills up."""
    text = " ".join([*TOPICS.values(), *TEMPLATES]).replace("{wanted}", "").replace("{other}", "")
    return {word: number for number, word in enumerate(sorted(set(text.split())), start=1)}


def sentences() -> Examples:
    """Return all sentences, no two alike: word numbers (n, LENGTH) int64, and the topic that is wanted; always the same."""
    numbers, rng = vocabulary(), generator(0, "sentences")
    activities = [words.split() for words in TOPICS.values()]

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=rng))

    rows: dict[tuple[int, ...], int] = {}
    while len(rows) < SENTENCES:
        topic = len(rows) % len(activities)
        other = (topic + 1 + draw(len(activities) - 1)) % len(activities)
        chosen = {name: activities[at][draw(len(activities[at]))] for name, at in (("wanted", topic), ("other", other))}
        words = TEMPLATES[draw(len(TEMPLATES))].format(**chosen).split()
        rows.setdefault((*[0] * (LENGTH - len(words)), *(numbers[word] for word in words)), topic)
    return Examples(torch.tensor(list(rows)), torch.tensor(list(rows.values())))
