"""Cleaning brings corpora, which disagree about what a name is, to one convention.

A recipe names these functions for each corpus, in order: `clean = ["articles", "demonyms"]`.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from training.data.documents import Document, Span, without_overlap

_ARTICLE = re.compile(r"(?:the|an?)\s+", re.IGNORECASE)
_SMALL = frozenset(
    re.findall(r"\w+", "of the and for in on at to de du la le les von van der den del di da al el y")
)
_PRONOUNS = frozenset(
    re.findall(r"\w+", "I My You Your He His She Her It Its We Our They Their This These Those Who")
)

# It lists words for the people of a place, because their endings also match "Japan" and "Shanghai".
_DEMONYM = re.compile(
    r"(?:[a-z]+-)?(?:(?:north|south|east|west|central|latin|native|ancient|anglo|equatorial)\w*"
    r"[\s-]+)*(?:afghan|albanian|algerian|algonquian|american|anatolian|andorran|angolan|antillean|"
    r"arab|arabian|argentine|argentinian|armenian|asian|australian|austrian|azerbaijani|bahamian|"
    r"bahraini|bangladeshi|barbadian|basque|bavarian|belarusian|belgian|beninese|bolivian|bosnian|"
    r"brazilian|breton|british|bulgarian|burmese|californian|cambodian|cameroonian|canadian|"
    r"catalan|caucasian|chadian|chechen|chilean|chinese|colombian|congolese|cornish|corsican|"
    r"croatian|cuban|cypriot|czech|dane|danish|dominican|dutch|ecuadorian|egyptian|emirati|english|"
    r"eritrean|estonian|ethiopian|european|fijian|filipino|finn|finnish|flemish|french|frisian|"
    r"galician|georgian|german|ghanaian|greek|guatemalan|guinean|haitian|hawaiian|hispanic|"
    r"honduran|hungarian|iberian|icelandic|indian|indonesian|iranian|iraqi|irish|israeli|italian|"
    r"jamaican|japanese|jewish|jordanian|kazakh|kenyan|korean|kurd|kurdish|kuwaiti|kyrgyz|laotian|"
    r"latvian|lebanese|liberian|libyan|lithuanian|luxembourgish|macedonian|madeiran|malaysian|"
    r"malian|maltese|manchu|mancunian|maori|mexican|milanese|moldavian|moldovan|mongolian|"
    r"montenegrin|moroccan|mozambican|namibian|nepalese|nepali|nicaraguan|nigerian|norman|norse|"
    r"norwegian|omani|ottoman|pakistani|palestinian|panamanian|papuan|paraguayan|parisian|persian|"
    r"peruvian|philippine|polish|polynesian|portuguese|prussian|qatari|rhodesian|roman|romani|"
    r"romanian|russian|rwandan|saami|sami|salvadoran|samoan|saudi|saxon|scandinavian|scot|scottish|"
    r"senegalese|serb|serbian|sicilian|singaporean|slavic|slovak|slovene|slovenian|somali|soviet|"
    r"spanish|sudanese|swede|swedish|swiss|syrian|taiwanese|tajik|tamil|tanzanian|thai|tibetan|"
    r"tunisian|turk|turkish|turkmen|tuscan|ugandan|ukrainian|uruguayan|uzbek|venetian|venezuelan|"
    r"vietnamese|viking|welsh|yemeni|yugoslav|yugoslavian|zambian|zimbabwean)(?:s|man|men)?",
    re.IGNORECASE,
)


def articles(document: Document) -> Document:
    """Cut a leading "the", "a" or "an" off each name."""

    def strip(span: Span) -> Span:
        found = _ARTICLE.match(document.text, span.start, span.end)
        start = found.end() if found else span.start
        return span._replace(start=start) if start < span.end else span

    return replace(document, spans=tuple(map(strip, document.spans)))


def demonyms(document: Document) -> Document:
    """Drop words for the people of a place, such as "South Koreans", which are no places."""
    return _keep(document, lambda span, text: not _DEMONYM.fullmatch(text))


def names(document: Document) -> Document:
    """Drop pronouns and descriptions such as "U.S. service members"; names have capitals throughout."""

    def named(span: Span, text: str) -> bool:
        words = [word for word in re.findall(r"[^\W_]+", text) if word not in _SMALL]
        return bool(words) and not any(word[0].islower() for word in words) and text not in _PRONOUNS

    return _keep(document, named)


def handles(document: Document) -> Document:
    """Make the mark of "@ name" in the Broad Twitter Corpus a separate entity with the label of the name.

    The dev and test files of that corpus always do that; a quarter of its train file does not.
    """
    taken = {at for span in document.spans for at in range(span.start, span.end)}
    marks = [
        Span(span.start - 2, span.start - 1, span.label)
        for span in document.spans
        if span.label in ("PER", "ORG")
        and document.text[: span.start].endswith("@ ")
        and span.start - 2 not in taken
    ]
    return replace(document, spans=tuple(sorted((*document.spans, *marks))))


def nested(document: Document) -> Document:
    """Keep only the longest of entities that overlap."""
    return replace(document, spans=without_overlap(document.spans))


def _keep(document: Document, test: Callable[[Span, str], bool]) -> Document:
    text = document.text
    kept = tuple(span for span in document.spans if test(span, text[span.start : span.end]))
    return replace(document, spans=kept)


CLEANING: dict[str, Callable[[Document], Document]] = {
    "articles": articles,
    "demonyms": demonyms,
    "handles": handles,
    "names": names,
    "nested": nested,
}
