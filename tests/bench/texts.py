"""Texts to measure with: two sets of sentences, made up here and the same every time.

What a request costs beside its run weighs more where sentences are short. So one set has sentences of 23
words on average, as news has, and the other of 13, as newswire has with its many lines of results.
"""

from random import Random

_PEOPLE = (
    *("Angela Merkel", "Ms. Okafor", "Juan Pérez", "Dr. Lindqvist", "Mary O'Connor", "Wei Zhang"),
    *("Priya Raman", "Jean-Pierre Blanc", "Tom Haines", "Senator Ruiz", "Aisha Diallo", "Karl Novak"),
)
_GROUPS = (
    *("IBM", "the European Commission", "Northwind Energy", "United Rovers", "the Labour Party"),
    *("Banco Azul", "Oxford University", "the World Bank", "Harbour & Sons Ltd.", "Aerolinea"),
)
_PLACES = (
    *("New York", "Berlin", "South Korea", "the Baltic coast", "Nairobi", "São Paulo", "Lake Victoria"),
    *("northern Italy", "Osaka", "St. Petersburg", "Texas", "Wellington"),
)
_CLAUSES = (
    "{person} told reporters in {place} on Tuesday that the talks had gone further than expected",
    "{group} said it would close two of its plants near {place} before the end of the year",
    "shares of {group} fell 3.4 percent after the figures were published",
    "{person}, who has led {group} since 2019, did not answer questions about the report",
    "the storm reached {place} late in the evening and cut the power of some 40,000 homes",
    "a court in {place} ordered {group} to pay $12.5 million to its former suppliers",
    "{person} scored twice as {group} won the second match of the season",
    "officials from {place} and {place} met for the first time in six years",
    "according to a survey of {group}, prices rose more slowly than in the spring",
    "{person} will succeed {person} at the head of {group}",
    "most of the money comes from private donors in {place}",
    "nobody was hurt, and trains to {place} were running again by noon",
)
_LINKS = (", while", ", and", "; meanwhile,", ", because", ", but", ", although")


def sentence(words: int, random: Random) -> str:
    """A sentence of exactly so many words, a word being what stands between blanks."""
    made: list[str] = []
    while len(made) < words:
        if made:
            made[-1] += (link := random.choice(_LINKS)).partition(" ")[0]
            made.append(link.partition(" ")[2])
        made += _clause(random).split()
    text = " ".join(made[:words]).rstrip(",;.")
    return f"{text[0].upper()}{text[1:]}."


def _clause(random: Random) -> str:
    clause = random.choice(_CLAUSES)
    for kind, names in (("{person}", _PEOPLE), ("{group}", _GROUPS), ("{place}", _PLACES)):
        while kind in clause:
            clause = clause.replace(kind, random.choice(names), 1)
    return clause


def news(count: int = 500, seed: int = 1) -> list[str]:
    """Sentences with the lengths of news: a mean of some 23 words, a long tail, headlines among them."""
    random = Random(seed)
    texts = []
    for _ in range(count):
        headline = random.random() < 0.1
        words = random.randint(4, 9) if headline else min(80, max(5, round(random.gammavariate(5, 5))))
        texts.append(sentence(words, random))
    return texts


def newswire(count: int = 500, seed: int = 1) -> list[str]:
    """Sentences with the lengths of newswire: a mean of some 13 words, every third a short line."""
    random = Random(seed)
    texts = []
    for _ in range(count):
        line = random.random() < 1 / 3
        words = random.randint(2, 7) if line else min(60, max(4, round(random.gammavariate(4, 4.3))))
        texts.append(sentence(words, random))
    return texts


SETS = {13: newswire, 23: news}
"""What makes each set, by the mean number of its words."""
