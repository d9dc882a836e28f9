"""Ensemble: several model versions that answer as one, by the mean of their posteriors or by a vote.

*Mean.* The words of a text are the same for all members, the decisions are not: a tokenizer may hide
the edge between two words in one sub-token. An ensemble's text is cut at every edge that any member
sees, so that no tokenizer hides an entity from the others. A member whose decision is cut says of each
part what its tag says of it: of `S-PER` over two words the first is `B-PER` and the second `E-PER`, of
`O` both are `O`. So each member gives every part its posterior, their weighted arithmetic mean (the
linear opinion pool; Stone 1961, "The opinion pool") takes the place of a network's softmax, and is
decoded as one: entities are legal, scores are exact under the mean. Where members decide alike nothing
is cut, and members that agree on everything are answered as each of them answers. A member that has no
decision in a text, as where its tokenizer drops all of it, is sure that there is no entity.

*Vote.* An entity is found if members of more than half of the weight find exactly it. Two such
entities have a member in common, whose entities do not overlap; so neither do those of a vote. The
score is the weighted mean of the members' scores, 0 for those that do not find it.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from itertools import product
from math import fsum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.decoding.entities import Entity, Prediction
from app.engine.decoding.spans import Decoder, Floats
from app.engine.model import Evidence, Network, kept_entities, settle
from app.engine.text.words import Ints
from app.errors import VersionRefused
from app.labels import Scheme, split_tag
from app.manifest import Manifest

P = TypeVar("P")
T = TypeVar("T")

_FLOOR = 1e-30  # what no member thinks possible still has a logarithm


def check_members(ensemble: Manifest, members: Sequence[Manifest]) -> None:
    """Whether versions can be the members of an ensemble.

    Raises:
        VersionRefused: one cannot; the message says why and what would do.
    """
    for member in members:
        of = f"member {member.name}/{member.version}"
        if member.kind == "ensemble":
            raise VersionRefused(f"{of} is an ensemble itself; name its members in its place")
        if set(member.labels) != set(ensemble.labels):
            raise VersionRefused(
                f"{of} has the labels {', '.join(sorted(member.labels))}, the ensemble "
                f"{', '.join(sorted(ensemble.labels))}; combine versions of the same labels"
            )
        if member.words != ensemble.words:
            raise VersionRefused(
                f"{of} splits words by {member.words!r}, the ensemble by {ensemble.words!r}; "
                "combine versions of one words rule"
            )
        if ensemble.method == "mean" and member.scheme != ensemble.scheme:
            raise VersionRefused(
                f"{of} has the tag scheme {member.scheme}, the ensemble {ensemble.scheme}; "
                "combine versions of one scheme, or by method vote"
            )
        if ensemble.method == "mean" and (strange := set(member.tags) - set(ensemble.tags)):
            raise VersionRefused(
                f"{of} has the tags {', '.join(sorted(strange))}, which {ensemble.scheme} does not "
                "know; combine by method vote"
            )


def part_tag(tag: str, scheme: Scheme, first: bool, last: bool) -> str:
    """The tag of a part of a decision, such that the parts together spell what the decision's tag does.

    Args:
        first, last: whether the part is the decision's first, and its last; the whole is both.
    """
    prefix, label = split_tag(tag)
    if prefix == "O":
        return tag
    if scheme == "BIOES":
        opens, closes = first and prefix in "BS", last and prefix in "ES"
        return f"{'S' if opens and closes else 'B' if opens else 'E' if closes else 'I'}-{label}"
    return tag if first else f"I-{label}"


class Mean:
    """The weighted mean of members' posteriors.

    Args:
        tags: the tag of each of its columns, all of those of `scheme`.
        member_tags: the tag of each column of each member.
        weights: of each member, positive.
    """

    def __init__(
        self,
        tags: Sequence[str],
        scheme: Scheme,
        member_tags: Sequence[Sequence[str]],
        weights: Sequence[float],
    ):
        self._outside = tags.index("O")
        self._columns = len(tags)
        self._weights = [weight / fsum(weights) for weight in weights]
        self._parts: list[dict[tuple[bool, bool], Floats]] = [
            {
                (first, last): np.array(
                    [[part_tag(tag, scheme, first, last) == t for t in tags] for tag in own], np.float64
                )
                for first, last in product((False, True), repeat=2)
            }
            for own in member_tags
        ]

    def __call__(self, members: Sequence[Evidence]) -> tuple[Ints, Ints, Floats]:
        """Starts and ends of the ensemble's decisions in one text, and their posteriors.

        Returns:
            Shapes (decisions,), (decisions,) and (decisions, tags).
        """
        # Members' decisions begin and end where words do, and leave no word between them out.
        starts = reduce(np.union1d, (member.starts for member in members))
        ends = reduce(np.union1d, (member.ends for member in members))
        mean = np.zeros((len(starts), self._columns))
        for member, parts, weight in zip(members, self._parts, self._weights, strict=True):
            mean += weight * self._spread(member, parts, starts, ends)
        return starts, ends, mean

    def _spread(
        self, member: Evidence, parts: Mapping[tuple[bool, bool], Floats], starts: Ints, ends: Ints
    ) -> Floats:
        """A member's posteriors of the ensemble's decisions, in the ensemble's columns."""
        spread = np.zeros((len(starts), self._columns))
        if not len(member.starts):
            spread[:, self._outside] = 1
            return spread
        owner = np.searchsorted(member.starts, starts, side="right") - 1
        opens, closes = member.starts[owner] == starts, member.ends[owner] == ends
        for (first, last), part in parts.items():
            at = np.flatnonzero((opens == first) & (closes == last))
            spread[at] = member.posteriors[owner[at]] @ part
        return spread


def vote(answers: Sequence[Sequence[Entity]], weights: Sequence[float]) -> list[Entity]:
    """The entities that members of more than half of the weight found, in order, without overlap.

    Args:
        answers: each member's entities in one text.
        weights: of each member, positive.
    """
    total = fsum(weights)
    scores: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
    for entities, weight in zip(answers, weights, strict=True):
        for entity in entities:
            scores.setdefault(_span(entity), []).append((weight, entity.score))
    found = []
    for (start, end, label), parts in sorted(scores.items()):
        won = fsum(weight for weight, _ in parts)
        if 2 * won > total:  # rounded sums keep their order: what is more here is more
            score = fsum(weight * score for weight, score in parts) / total
            found.append(Entity(start, end, label, min(1.0, score), min(1.0, won / total)))
    return found


def agreement(
    entities: Iterable[Entity], answers: Sequence[Sequence[Entity]], weights: Sequence[float]
) -> tuple[Entity, ...]:
    """The entities, each with the share of the weight whose members found exactly it."""
    total = fsum(weights)
    own = [frozenset(map(_span, answer)) for answer in answers]

    def share(entity: Entity) -> float:
        span = _span(entity)
        found = fsum(weight for spans, weight in zip(own, weights, strict=True) if span in spans)
        return min(1.0, found / total)

    return tuple(replace(entity, agreement=share(entity)) for entity in entities)


class Ensemble:
    """Members that answer as one. They run beside each other, each in batches of its own.

    Args:
        manifest: the ensemble's.
        members: in the manifest's order.
        release: what `close` does with the members; by default it closes them. Others may use them too.

    Raises:
        VersionRefused: they cannot be combined.
    """

    def __init__(
        self,
        manifest: Manifest,
        members: Sequence[Network],
        release: Callable[[], None] | None = None,
    ):
        check_members(manifest, [member.manifest for member in members])
        self.manifest = manifest
        self._members = tuple(members)
        self._release = release
        self._weights = manifest.weights or (1.0,) * len(members)
        self._decoder = Decoder(manifest.tags, manifest.scheme, manifest.temperature)
        self._mean: Mean | None = None
        if manifest.method == "mean":
            own = [member.manifest.tags for member in members]
            self._mean = Mean(manifest.tags, manifest.scheme, own, self._weights)

    @property
    def alive(self) -> bool:
        """Whether requests can still be run, which takes all members."""
        return all(member.alive for member in self._members)

    @property
    def failing(self) -> bool:
        """Whether three batches in a row failed, of any member."""
        return any(member.failing for member in self._members)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs, of any member."""
        return all(member.idle for member in self._members)

    @property
    def waiting_tokens(self) -> int:
        """Sub-tokens in all members' queues."""
        return sum(member.waiting_tokens for member in self._members)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The entities of each text, in the texts' order. `windows` is the most that a member took.

        Raises:
            Busy, InferenceFailed, NotReady: of the member that failed first, see `app.errors`.
        """
        return self.submit(texts).result()

    def submit(self, texts: Sequence[str], deadline: float | None = None) -> "Future[list[Prediction]]":
        """As `predict`, without waiting; see `Network.submit`."""
        if self._mean:
            return gather(self._ask(texts, deadline), lambda members: self._evidence(members).prediction)
        return gather([member.submit(texts, deadline) for member in self._members], self._vote)

    def submit_evidence(self, texts: Sequence[str]) -> "Future[list[Evidence]]":
        """As `submit`, with the mean posteriors that each answer was read from.

        Raises:
            ValueError: the method is vote.
        """
        return gather(self._ask(texts), self._evidence)

    def logits(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Each text's logarithms of the mean posteriors, before temperature, shape (decisions, tags).

        Raises:
            ValueError: the method is vote.
        """
        found = gather(self._ask(texts), lambda members: self._logits(members)[2]).result()
        return [logits.astype(np.float32) for logits in found]

    def close(self) -> None:
        """Give the members back; those that nobody else uses finish what is queued and close."""
        if self._release:
            self._release()
            return
        for member in self._members:
            member.close()

    def _ask(self, texts: Sequence[str], deadline: float | None = None) -> "list[Future[list[Evidence]]]":
        if not self._mean:
            name = f"{self.manifest.name}/{self.manifest.version}"
            raise ValueError(f"{name}: votes over spans and has no posteriors; ask its members for theirs")
        return [member.submit_evidence(texts, deadline) for member in self._members]

    def _logits(self, members: Sequence[Evidence]) -> tuple[Ints, Ints, Floats]:
        assert self._mean is not None
        starts, ends, mean = self._mean(members)
        return starts, ends, np.log(np.maximum(mean, _FLOOR))

    def _evidence(self, members: Sequence[Evidence]) -> Evidence:
        starts, ends, logits = self._logits(members)
        spans = self._decoder.decode(logits)
        entities = kept_entities(spans, self.manifest.thresholds, starts, ends)
        answers = [member.prediction for member in members]
        entities = agreement(entities, [answer.entities for answer in answers], self._weights)
        prediction = Prediction(entities, max(answer.windows for answer in answers))
        return Evidence(prediction, starts, ends, self._decoder.probabilities(logits))

    def _vote(self, members: Sequence[Prediction]) -> Prediction:
        least = self.manifest.thresholds
        entities = vote([member.entities for member in members], self._weights)
        kept = tuple(entity for entity in entities if entity.score >= least.get(entity.label, 0.0))
        return Prediction(kept, max(member.windows for member in members))


def gather(members: "Sequence[Future[list[P]]]", combine: Callable[[Sequence[P]], T]) -> "Future[list[T]]":
    """What `combine` makes of each text's answers, one of each member, once all members are done.

    It is called on the thread that gives the last answer. The first error is the result's, and ends
    the others' work, as cancelling the result does.
    """
    result: Future[list[T]] = Future()
    left = len(members)
    lock = threading.Lock()

    def done(member: "Future[list[P]]") -> None:
        nonlocal left
        if member.cancelled():
            return
        if error := member.exception():
            with suppress(InvalidStateError):  # another failed before, or nobody waits any more
                result.set_exception(error)
            return
        with lock:
            left -= 1
            last = left == 0
        if last and not result.done():
            answers = zip(*(member.result() for member in members), strict=True)
            settle(result, lambda: [combine(text) for text in answers])

    def drop(_: "Future[list[T]]") -> None:
        for member in members:
            member.cancel()

    result.add_done_callback(drop)
    for member in members:
        member.add_done_callback(done)
    return result


def _span(entity: Entity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.label
