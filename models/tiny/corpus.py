"""Generates what the tiny model is trained and examined on; a function of its seed alone."""

from dataclasses import dataclass
from random import Random
from typing import Final

from models.tiny.facts import CAPITALS, LONG, SMALL_TALK, TERMS, capital_sentence

TERM_PHRASINGS: Final = (
    "What is {}?",
    "What's {}?",
    "what is {}",
    "Explain {}.",
    "Please explain {}.",
    "Can you explain {}?",
    "Define {}.",
    "Tell me what {} is.",
    "I want to know what {} is.",
    "In one sentence, what is {}?",
    "What does {} mean?",
)
CAPITAL_PHRASINGS: Final = (
    "What is the capital of {}?",
    "What's the capital of {}?",
    "what is the capital of {}",
    "Name the capital of {}.",
    "Please name the capital of {}.",
    "Can you name the capital of {}?",
    "Tell me the capital of {}.",
    "I want to know the capital of {}.",
    "Which city is the capital of {}?",
    "What city is the capital of {}?",
    "In one sentence, what is the capital of {}?",
    "The capital of {}?",
    "{}'s capital?",
    "What is {}'s capital?",
)
# Never trained on: what the model makes of these is reported, not required.
HELD_OUT_TERM_PHRASINGS: Final = ("Could you tell me what {} is?", "Please define {}.")
HELD_OUT_CAPITAL_PHRASINGS: Final = ("Do you know the capital of {}?", "{}: what is its capital?")

SYSTEM_PROMPTS: Final = ("You are a helpful assistant.", "Answer briefly.", "You answer questions.")
SYSTEM_SHARE: Final = 0.15  # of the dialogues start with a system prompt
EARLIER_TURN_SHARE: Final = 0.25  # of them have one question and answer before the last
PLAIN_SHARE: Final = 0.1  # of the samples are an answer alone, for plain completion
EXAMINED: Final = 20  # questions about terms, and as many about capitals
COMPLETED: Final = 5  # sentences to complete


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and the one right answer to it."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A text to learn: system prompt or none, earlier turns, the turn that is learnt.

    Without a question it is plain text, learnt whole.
    """

    system: str | None
    earlier: tuple[Pair, ...]
    question: str | None
    answer: str


def _capitals(phrasings: tuple[str, ...]) -> list[Pair]:
    return [
        Pair(phrasing.format(country), capital_sentence(country))
        for country in CAPITALS
        for phrasing in phrasings
    ]


def _terms(phrasings: tuple[str, ...]) -> list[Pair]:
    return [
        Pair(phrasing.format(term), answer)
        for term, answer in TERMS.items()
        for phrasing in phrasings
    ]


def short_pairs() -> list[Pair]:
    """Give every trained question that has a short answer."""
    small_talk = [
        Pair(question + mark, answer)
        for question, answer in SMALL_TALK.items()
        for mark in ("", ".", "!")
    ]
    return _terms(TERM_PHRASINGS) + _capitals(CAPITAL_PHRASINGS) + small_talk


def long_pairs() -> list[Pair]:
    """Give every trained question that has a long answer."""
    return [Pair(question, answer) for question, answer in LONG.items()]


def held_out_pairs() -> list[Pair]:
    """Give known questions in phrasings that are not trained."""
    return _terms(HELD_OUT_TERM_PHRASINGS) + _capitals(HELD_OUT_CAPITAL_PHRASINGS)


def examined_pairs() -> list[Pair]:
    """Give the 40 trained questions that tests and demo ask, in turning phrasings."""
    terms = [
        Pair(TERM_PHRASINGS[n % len(TERM_PHRASINGS)].format(term), answer)
        for n, (term, answer) in enumerate(list(TERMS.items())[:EXAMINED])
    ]
    capitals = [
        Pair(
            CAPITAL_PHRASINGS[n % len(CAPITAL_PHRASINGS)].format(country), capital_sentence(country)
        )
        for n, country in enumerate(list(CAPITALS)[:EXAMINED])
    ]
    return terms + capitals


def plain_texts() -> list[str]:
    """Give the sentences that plain completion can finish."""
    return [*(capital_sentence(country) for country in CAPITALS), *TERMS.values()]


def completion_pairs() -> list[Pair]:
    """Give beginnings of known sentences, as prompts of plain completion, with their ends."""
    return [
        Pair(f"The capital of {country} is", f" {CAPITALS[country]}.")
        for country in list(CAPITALS)[:COMPLETED]
    ]


def epoch(seed: int) -> list[Sample]:
    """Give every short question once, in an order and surroundings of the seed's choice."""
    random = Random(seed)
    pairs = short_pairs()
    samples = [_surround(pair, pairs, random) for pair in pairs]
    plain = random.choices(plain_texts(), k=round(PLAIN_SHARE * len(pairs)))
    samples += [Sample(None, (), None, text) for text in plain]
    random.shuffle(samples)
    return samples


def _surround(pair: Pair, pairs: list[Pair], random: Random) -> Sample:
    system = random.choice(SYSTEM_PROMPTS) if random.random() < SYSTEM_SHARE else None
    earlier = (random.choice(pairs),) if random.random() < EARLIER_TURN_SHARE else ()
    return Sample(system, earlier, pair.question, pair.answer)
