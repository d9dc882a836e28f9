"""An ensemble answers with the mean of its members' posteriors or with their vote."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from app.engine.decoding.answers import kept_entities
from app.engine.decoding.entities import Evidence, Prediction, compact
from app.engine.decoding.spans import Decoder, Floats
from app.engine.ensemble.gathering import gather
from app.engine.ensemble.mean import Mean
from app.engine.ensemble.vote import vote, with_agreement
from app.engine.model import Network
from app.engine.text.words import Ints
from app.errors import VersionRefused
from app.manifest import Manifest

_FLOOR = 1e-30
"""Least value of a mean probability, so that it has a logarithm even if all members say zero."""


def check_members(ensemble: Manifest, members: Sequence[Manifest]) -> None:
    """Check that versions can be the members of an ensemble.

    Raises:
        VersionRefused: one cannot be a member; the message says why, and what to combine instead.
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


class Ensemble:
    """Answers with its members, which run at the same time, each with a queue and batches of its own.

    Args:
        manifest: manifest of the ensemble.
        members: networks in the order of the manifest's members; other versions may use them too.
        release: called by `close` to give the members back; by default `close` closes them.

    Raises:
        VersionRefused: the members cannot be combined.
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
        """Say whether requests can still be run, for which all members must be alive."""
        return all(member.alive for member in self._members)

    @property
    def failing(self) -> bool:
        """Say whether three batches in a row failed in any member, or any hangs."""
        return any(member.failing for member in self._members)

    @property
    def hung(self) -> bool:
        """Say whether a session of any member hangs."""
        return any(member.hung for member in self._members)

    @property
    def idle(self) -> bool:
        """Say whether nothing waits and nothing runs in all members."""
        return all(member.idle for member in self._members)

    @property
    def waiting_tokens(self) -> int:
        """Return the number of sub-tokens in all members' queues."""
        return sum(member.waiting_tokens for member in self._members)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the entities of each text, in the texts' order; `windows` is the largest of any member.

        Raises:
            Busy, InferenceFailed, NotReady: the error of the member that failed first, see `app.errors`.
        """
        return self.submit(texts).result()

    def submit(self, texts: Sequence[str], deadline: float | None = None) -> "Future[list[Prediction]]":
        """Return a future of what `predict` returns; see `Network.submit`."""
        if self._mean:
            return gather(self._ask(texts, deadline), lambda members: self._evidence(members).prediction)
        return gather([member.submit(texts, deadline) for member in self._members], self._vote)

    def answer_now(self, texts: Sequence[str]) -> None:
        """Return None always: members run at the same time, so not on the caller's thread."""

    def submit_evidence(
        self, texts: Sequence[str], deadline: float | None = None
    ) -> "Future[list[Evidence]]":
        """Return a future of each text's prediction and the mean posteriors that it was read from.

        Raises:
            ValueError: the method is vote.
        """
        return gather(self._ask(texts, deadline), self._evidence)

    def logits(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Return logarithms of each text's mean posteriors, before temperature, shape (decisions, tags).

        Raises:
            ValueError: the method is vote.
        """
        found = gather(self._ask(texts), lambda members: self._logits(members)[2]).result()
        return [logits.astype(np.float32) for logits in found]

    def close(self) -> None:
        """Give the members back. Those that no other version uses finish their queues and close."""
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
        entities = with_agreement(entities, [answer.entities for answer in answers], self._weights)
        prediction = Prediction(compact(entities), max(answer.windows for answer in answers))
        return Evidence(prediction, starts, ends, self._decoder.probabilities(logits))

    def _vote(self, members: Sequence[Prediction]) -> Prediction:
        least = self.manifest.thresholds
        entities = vote([member.entities for member in members], self._weights)
        kept = [entity for entity in entities if entity.score >= least.get(entity.label, 0.0)]
        return Prediction(compact(kept), max(member.windows for member in members))
