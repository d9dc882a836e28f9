"""Ensembles: what is combined, and that texts, tokenizers and members' order do not matter to it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from app.engine.decoding.entities import Entity, Prediction
from app.engine.decoding.spans import Decoder
from app.engine.ensemble.model import Ensemble, Mean, agreement, check_members, gather, part_tag, vote
from app.engine.model import Evidence, Network
from app.errors import InferenceFailed, VersionRefused
from app.labels import Scheme, tags_of
from app.manifest import Manifest, read_manifest
from tests.networks import open_network
from tests.servers import until
from tests.texts import texts
from tests.tiny import LABELS, POISON, SCORES, SPANS, TAGS, TEXT, VOCABULARY, write_tiny_version

SCHEMES: list[Scheme] = ["IO", "IOB1", "IOB2", "BIOES"]
schemes = pytest.mark.parametrize("scheme", SCHEMES)

Make = Callable[..., Network]


# part_tag and Mean, on posteriors made by hand


@schemes
@given(data=st.data())
def test_parts_spell_what_the_whole_spells(scheme: Scheme, data: st.DataObject) -> None:
    spans, member = data.draw(members(scheme, 1))
    (evidence,) = member
    finest = Evidence(Prediction((), 0), np.arange(WORDS) * 2, np.arange(WORDS) * 2 + 1, outside(scheme))
    tags = tags_of(LABELS, scheme)
    starts, ends, mean = Mean(tags, scheme, [tags, tags], [3, 1])([evidence, finest])
    assert (starts.tolist(), ends.tolist()) == (finest.starts.tolist(), finest.ends.tolist())
    assert decoded(scheme, starts, ends, mean) == spans


@schemes
@given(data=st.data())
def test_members_that_agree_are_answered_so_whatever_their_decisions(
    scheme: Scheme, data: st.DataObject
) -> None:
    spans, evidence = data.draw(members(scheme, 3))
    tags = tags_of(LABELS, scheme)
    starts, ends, mean = Mean(tags, scheme, [tags] * 3, [1, 2, 0.5])(evidence)
    assert np.allclose(mean.sum(1), 1)
    assert starts.tolist() == sorted({at for one in evidence for at in one.starts.tolist()})
    assert ends.tolist() == sorted({at for one in evidence for at in one.ends.tolist()})
    assert decoded(scheme, starts, ends, mean) == spans


@pytest.mark.parametrize(
    ("tag", "scheme", "parts"),
    [
        ("O", "BIOES", ("O", "O", "O")),
        ("S-PER", "BIOES", ("B-PER", "I-PER", "E-PER")),
        ("B-PER", "BIOES", ("B-PER", "I-PER", "I-PER")),
        ("E-PER", "BIOES", ("I-PER", "I-PER", "E-PER")),
        ("I-PER", "BIOES", ("I-PER", "I-PER", "I-PER")),
        ("B-PER", "IOB2", ("B-PER", "I-PER", "I-PER")),
        ("B-PER", "IOB1", ("B-PER", "I-PER", "I-PER")),
        ("I-PER", "IOB1", ("I-PER", "I-PER", "I-PER")),
        ("I-PER", "IO", ("I-PER", "I-PER", "I-PER")),
    ],
)
def test_a_decision_is_parted_by_its_scheme(tag: str, scheme: Scheme, parts: tuple[str, ...]) -> None:
    assert tuple(part_tag(tag, scheme, at == 0, at == 2) for at in range(3)) == parts
    assert part_tag(tag, scheme, True, True) == tag


def test_the_mean_is_weighted_and_by_tag_not_by_column() -> None:
    tags = tags_of(("PER",), "IOB2")  # O, B-PER, I-PER
    first = evidence([0], [5], [[0.7, 0.2, 0.1]])
    second = evidence([0], [5], [[0.1, 0.5, 0.4]])  # columns I-PER, O, B-PER
    _, _, mean = Mean(tags, "IOB2", [tags, ("I-PER", "O", "B-PER")], [3, 1])([first, second])
    assert np.allclose(mean, [[0.65, 0.25, 0.1]])


def test_a_cut_decision_gives_each_part_its_own_posterior() -> None:
    tags = tags_of(("PER",), "IOB2")
    whole = evidence([0], [6], [[0.3, 0.6, 0.1]])
    cut = evidence([0, 4], [3, 6], [[1, 0, 0], [0.5, 0.25, 0.25]])
    starts, ends, mean = Mean(tags, "IOB2", [tags, tags], [1, 1])([whole, cut])
    assert (starts.tolist(), ends.tolist()) == ([0, 4], [3, 6])
    assert np.allclose(mean, [[0.65, 0.3, 0.05], [0.4, 0.125, 0.475]])


def test_a_member_without_decisions_is_sure_of_nothing_there() -> None:
    tags = tags_of(("PER",), "IOB2")
    seen, blind = evidence([0], [3], [[0.2, 0.8, 0]]), evidence([], [], np.zeros((0, 3)))
    starts, _, mean = Mean(tags, "IOB2", [tags, tags], [1, 1])([blind, seen])
    assert starts.tolist() == [0]
    assert np.allclose(mean, [[0.6, 0.4, 0]])


def test_a_tag_that_a_member_lacks_has_no_probability_there() -> None:
    tags = tags_of(("PER",), "IOB2")
    short, full = evidence([0], [3], [[0.4, 0.6]]), evidence([0], [3], [[0.2, 0.6, 0.2]])
    _, _, mean = Mean(tags, "IOB2", [("O", "B-PER"), tags], [1, 1])([short, full])
    assert np.allclose(mean, [[0.3, 0.6, 0.1]])


# vote and agreement, on entities made by hand


@given(data=st.data())
def test_entities_of_a_vote_do_not_overlap(data: st.DataObject) -> None:
    answers = data.draw(st.lists(entities(), min_size=2, max_size=5))
    weights = [data.draw(st.floats(1e-3, 1e3)) for _ in answers]
    found = vote(answers, weights)
    last = 0
    for entity in found:
        assert last <= entity.start < entity.end
        last = entity.end
        own = [{span(e): e.score for e in answer}.get(span(entity)) for answer in answers]
        won = [(weight, score) for weight, score in zip(weights, own, strict=True) if score is not None]
        assert entity.agreement == pytest.approx(sum(w for w, _ in won) / sum(weights))
        assert entity.agreement >= 0.5
        assert entity.score == pytest.approx(sum(w * s for w, s in won) / sum(weights))
    if all(list(map(span, answer)) == list(map(span, answers[0])) for answer in answers):
        assert list(map(span, found)) == list(map(span, answers[0]))
    assert agreement(found, answers, weights) == tuple(found)


def test_half_of_the_weight_is_not_enough() -> None:
    per, org = Entity(0, 4, "PER", 0.9), Entity(0, 4, "ORG", 0.8)
    assert vote([[per], [org]], [1, 1]) == []
    assert vote([[per], [org], []], [2, 1, 1]) == []
    assert vote([[per], [per], [org]], [1, 1, 1]) == [
        Entity(0, 4, "PER", pytest.approx(0.6), pytest.approx(2 / 3))
    ]
    assert vote([[per], [org]], [1, 1.5]) == [Entity(0, 4, "ORG", pytest.approx(0.48), pytest.approx(0.6))]


# which members fit


@pytest.mark.parametrize(
    ("method", "changes", "reason"),
    [
        ("mean", {"kind": "ensemble"}, "m/2 is an ensemble itself; name its members"),
        ("mean", {"labels": ("PER",)}, "m/2 has the labels PER, the ensemble LOC, ORG, PER"),
        ("vote", {"labels": ("PER",)}, "combine versions of the same labels"),
        ("vote", {"words": "space"}, "m/2 splits words by 'space', the ensemble by 'bert'"),
        ("mean", {"scheme": "BIOES"}, "m/2 has the tag scheme BIOES, the ensemble IOB2.*method vote"),
        ("mean", {"tags": (*TAGS, "E-PER")}, "m/2 has the tags E-PER.*method vote"),
    ],
)
def test_members_that_do_not_fit_are_refused(
    tmp_path: Path, method: str, changes: dict[str, Any], reason: str
) -> None:
    member = read_manifest(write_tiny_version(tmp_path, "m", 2))
    ensemble = member.model_copy(update={"method": method})
    check_members(ensemble, [member])
    with pytest.raises(VersionRefused, match=reason):
        check_members(ensemble, [member, member.model_copy(update=changes)])


def test_a_vote_takes_members_of_any_scheme(tmp_path: Path) -> None:
    member = read_manifest(write_tiny_version(tmp_path, "m", 2))
    other = member.model_copy(update={"scheme": "BIOES", "tags": tags_of(LABELS, "BIOES")})
    check_members(member.model_copy(update={"method": "vote"}), [member, other])


# gather


def test_the_last_answer_ends_the_wait_whatever_the_order() -> None:
    parts: list[Future[list[int]]] = [Future(), Future(), Future()]
    result = gather(parts, sum)
    for part, value in ((parts[2], 4), (parts[0], 1)):
        part.set_result([value, 10 * value])
        assert not result.done()
    parts[1].set_result([2, 20])
    assert result.result(0) == [7, 70]


def test_an_error_is_the_answer_and_ends_the_others_work() -> None:
    parts: list[Future[list[int]]] = [Future(), Future(), Future()]
    result = gather(parts, sum)
    parts[1].set_exception(InferenceFailed("broken"))
    with pytest.raises(InferenceFailed, match="broken"):
        result.result(0)
    assert parts[0].cancelled()
    assert parts[2].cancelled()


def test_cancelling_drops_all_members_work() -> None:
    parts: list[Future[list[int]]] = [Future(), Future()]
    result = gather(parts, sum)
    parts[0].set_result([1])
    result.cancel()
    assert parts[1].cancelled()


# whole ensembles of tiny versions


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ensemble]]:
    """Makes ensembles of folders, and closes them at the end."""
    made: list[Ensemble] = []

    def make(*folders: Path, method: str = "mean", **changes: Any) -> Ensemble:
        predictors = [open_network(folder) for folder in folders]
        made.append(Ensemble(ensemble_of(folders, method, **changes), predictors))
        return made[-1]

    yield make
    for ensemble in made:
        ensemble.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain/1`; `eager/1`, which takes what it does not know for a place; `blank/1`, whose tokenizer knows
    only blanks; and `ibm/1`, for which IBM is a person."""
    models = tmp_path_factory.mktemp("models")
    write_tiny_version(models, "plain")
    write_tiny_version(models, "eager", scores={**SCORES, "[UNK]": {"B-LOC": 8}}, max_length=16, stride=4)
    blank_separated(write_tiny_version(models, "blank", golden=[]))
    write_tiny_version(models, "ibm", ibm="PER")
    return models


@pytest.fixture(scope="module")
def kept(make: Any, models: Path) -> Iterator[dict[str, Any]]:
    """Members by name, and ensembles by their members' names and the method."""
    alone = {name: open_network(models / name / "1") for name in ("plain", "eager", "blank")}
    pairs = ("eager eager", "eager blank", "blank eager")
    yield alone | {
        f"{pair} {method}": make(*(models / name / "1" for name in pair.split()), method=method)
        for pair in pairs
        for method in ("mean", "vote")
    }
    for predictor in alone.values():
        predictor.close()


@given(text=texts)
def test_copies_answer_as_the_original(kept: Any, text: str) -> None:
    (alone,) = kept["eager"].predict([text])
    for method in ("mean", "vote"):
        (together,) = kept[f"eager eager {method}"].predict([text])
        assert spans(together) == spans(alone)
        assert together.windows == alone.windows
        for entity, other in zip(together.entities, alone.entities, strict=True):
            assert entity.score == pytest.approx(other.score)
            assert entity.agreement == 1


@given(text=texts, mates=st.lists(texts, max_size=4), method=st.sampled_from(["mean", "vote"]))
def test_entities_are_whole_words_in_order_without_overlap(
    kept: Any, text: str, mates: list[str], method: str
) -> None:
    ensemble = kept[f"eager blank {method}"]
    (prediction,) = ensemble.predict([text])
    last = 0
    for entity in prediction.entities:
        assert last <= entity.start < entity.end <= len(text)
        assert text[entity.start : entity.end].strip() == text[entity.start : entity.end]
        assert 0 <= entity.agreement <= 1
        assert 0 < entity.score <= 1
        last = entity.end
    assert ensemble.predict([*mates, text])[-1] == prediction


@given(text=texts, method=st.sampled_from(["mean", "vote"]))
def test_the_order_of_the_members_does_not_matter(kept: Any, text: str, method: str) -> None:
    (one,) = kept[f"eager blank {method}"].predict([text])
    (other,) = kept[f"blank eager {method}"].predict([text])
    assert spans(one) == spans(other)
    assert [e.score for e in one.entities] == pytest.approx([e.score for e in other.entities])


def test_a_coarse_tokenizer_hides_no_entity(make: Any, kept: Any, models: Path) -> None:
    text = "She lives in York."
    assert spans(kept["blank"].predict([text])[0]) == [(13, 18, "LOC")]  # "York." is one decision for it
    (fine,) = kept["plain"].predict([text])
    assert spans(fine) == [(13, 17, "LOC")]
    (mean,) = make(models / "plain/1", models / "blank/1", weights=(2.0, 1.0)).predict([text])
    assert [(*span(e), e.agreement) for e in mean.entities] == [(13, 17, "LOC", pytest.approx(2 / 3))]


def test_the_mean_weighs_what_members_disagree_about(make: Any, models: Path) -> None:
    folders = models / "plain/1", models / "ibm/1"
    for weights, label in (((2.0, 1.0), "ORG"), ((1.0, 2.0), "PER")):
        (prediction,) = make(*folders, weights=weights).predict(["IBM"])
        (entity,) = prediction.entities
        assert (entity.label, entity.agreement) == (label, pytest.approx(2 / 3))
        assert entity.score == pytest.approx(2 / 3, abs=1e-2)
    (voted,) = make(*folders, method="vote").predict(["Angela Merkel and IBM"])
    assert spans(voted) == [(0, 13, "PER")]


@pytest.mark.parametrize("method", ["mean", "vote"])
def test_answers_have_the_order_of_the_texts(kept: Any, method: str) -> None:
    ensemble = kept[f"eager eager {method}"]
    asked = ["IBM", "nothing", "", "x " * 50 + "IBM", TEXT]
    found = [spans(prediction) for prediction in ensemble.predict(asked)]
    assert found == [[(0, 3, "ORG")], [], [], [(100, 103, "ORG")], SPANS]
    assert ensemble.predict([]) == []
    assert ensemble.predict([" "]) == [Prediction((), 0)]


def test_logits_are_the_logarithm_of_the_mean(kept: Any) -> None:
    (logits,) = kept["eager blank mean"].logits([TEXT])
    assert logits.dtype == np.float32
    assert np.allclose(np.exp(logits).sum(1), 1, atol=1e-5)
    (evidence,) = kept["eager blank mean"].submit_evidence([TEXT]).result()
    assert (
        len(logits) == len(evidence.starts) == 8
    )  # words, the last two of which are one decision of `blank`
    assert np.allclose(np.exp(logits), evidence.posteriors, atol=1e-5)
    with pytest.raises(ValueError, match="team/1: votes over spans and has no posteriors"):
        kept["eager eager vote"].logits([TEXT])


def test_temperatures_of_members_and_of_the_ensemble_count(make: Any, models: Path, tmp_path: Path) -> None:
    hot = write_tiny_version(tmp_path, "hot", temperature=4.0)
    plain = models / "plain/1"
    scores = [
        make(*folders, **changes).predict(["IBM"])[0].entities[0].score
        for folders, changes in (
            ((plain, plain), {}),
            ((plain, hot), {}),
            ((hot, hot), {}),
            ((hot, hot), {"temperature": 2.0}),
        )
    ]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_thresholds_of_the_ensemble_count_in_both_methods(make: Any, models: Path, tmp_path: Path) -> None:
    folders = models / "plain/1", models / "plain/1"
    for method in ("mean", "vote"):
        (score,) = [e.score for e in make(*folders, method=method).predict(["perhaps"])[0].entities]
        assert (
            make(*folders, method=method, thresholds={"PER": score - 0.01}).predict(["perhaps"])[0].entities
        )
        assert (
            not make(*folders, method=method, thresholds={"PER": score + 0.01})
            .predict(["perhaps"])[0]
            .entities
        )


def test_thresholds_of_members_count_in_a_vote(make: Any, models: Path, tmp_path: Path) -> None:
    strict = write_tiny_version(tmp_path, "strict", thresholds={"PER": 0.95})
    plain = models / "plain/1"
    assert not make(strict, strict, plain, method="vote").predict(["perhaps"])[0].entities
    assert make(strict, plain, plain, method="vote").predict(["perhaps"])[0].entities
    (entity,) = make(strict, plain, plain).predict(["perhaps"])[0].entities
    assert entity.agreement == pytest.approx(2 / 3)


def test_a_request_that_fails_fails_alone(make: Any, models: Path) -> None:
    ensemble = make(models / "plain/1", models / "blank/1", weights=(2.0, 1.0))
    with pytest.raises(InferenceFailed):
        ensemble.predict(["IBM", f"some {POISON}"])
    assert ensemble.alive
    assert spans(ensemble.predict([TEXT])[0]) == SPANS
    assert ensemble.waiting_tokens == 0


def test_a_cancelled_request_leaves_the_others_alone(make: Any, models: Path) -> None:
    ensemble = make(models / "plain/1", models / "ibm/1")
    futures = [ensemble.submit(["Angela Merkel " * 20]) for _ in range(20)]
    for future in futures[::2]:
        future.cancel()
    assert all(len(future.result()[0].entities) == 20 for future in futures[1::2])


def test_closing_finishes_what_runs_and_closes_the_members(models: Path) -> None:
    folders = [models / "plain/1", models / "ibm/1"]
    members = [open_network(folder) for folder in folders]
    ensemble = Ensemble(ensemble_of(folders, "mean"), members)
    running = [ensemble.submit([TEXT]) for _ in range(3)]
    for future in running:
        future.result()
    ensemble.close()
    assert not ensemble.alive
    assert not any(member.alive for member in members)


def test_closing_gives_members_back_to_who_lent_them(models: Path) -> None:
    folders = [models / "plain/1", models / "ibm/1"]
    members = [open_network(folder) for folder in folders]
    returned: list[bool] = []
    ensemble = Ensemble(ensemble_of(folders, "mean"), members, lambda: returned.append(True))
    ensemble.close()
    assert returned == [True]
    assert all(member.predict([TEXT])[0].entities for member in members)
    for member in members:
        member.close()


def test_it_fails_as_soon_as_one_member_does_and_is_idle_with_all(models: Path) -> None:
    folders = [models / "plain/1", models / "ibm/1"]
    members = [open_network(folder) for folder in folders]
    ensemble = Ensemble(ensemble_of(folders, "mean"), members)
    for _ in range(3):
        assert not ensemble.failing
        members[1].submit([POISON]).exception()
    assert ensemble.failing
    until(lambda: ensemble.idle)
    running = members[0].submit([TEXT * 500])
    assert not ensemble.idle
    running.result()
    until(lambda: ensemble.idle)
    ensemble.close()


# what the tests above are made of

WORDS = 6


def evidence(starts: Sequence[int], ends: Sequence[int], posteriors: Any) -> Evidence:
    return Evidence(
        Prediction((), 0),
        np.array(starts, np.int64),
        np.array(ends, np.int64),
        np.array(posteriors, np.float64),
    )


def outside(scheme: Scheme) -> Any:
    """Posteriors of a member that is sure of nothing: every tag is alike."""
    columns = len(tags_of(LABELS, scheme))
    return np.full((WORDS, columns), 1 / columns)


@st.composite
def members(
    draw: st.DrawFn, scheme: Scheme, count: int
) -> tuple[list[tuple[int, int, str]], list[Evidence]]:
    """Spans over words `2n:2n+1`, and members that are sure of them, each with decisions of its own."""
    found: list[tuple[int, int, str]] = []
    at = 0
    while at < WORDS:
        size = draw(st.integers(1, 3))
        touches = bool(found) and found[-1][1] == at
        if at + size <= WORDS and draw(st.booleans()):
            label = draw(st.sampled_from(LABELS))
            if not (scheme == "IO" and touches and found[-1][2] == label):
                found.append((at, at + size, label))
        at += size
    edges = {0, WORDS, *(edge for first, end, _ in found for edge in (first, end))}
    parts = [spelled(draw, scheme, found, edges) for _ in range(count)]
    return [(2 * first, 2 * end - 1, label) for first, end, label in found], parts


def spelled(
    draw: st.DrawFn, scheme: Scheme, found: Sequence[tuple[int, int, str]], edges: set[int]
) -> Evidence:
    """A member that is sure of the spans; its decisions begin at the edges and where it likes besides."""
    cuts = sorted(edges | set(draw(st.lists(st.integers(1, WORDS - 1)))))
    starts, ends = cuts[:-1], cuts[1:]
    tags = tags_of(LABELS, scheme)
    posteriors = np.zeros((len(starts), len(tags)))
    for row, (first, end) in enumerate(zip(starts, ends, strict=True)):
        tag = "O"
        for number, (low, high, label) in enumerate(found):
            if low <= first < high:
                opens, closes = first == low, end == high
                touches = number > 0 and found[number - 1][1:] == (low, label)
                prefix = {
                    "IO": "I",
                    "IOB1": "B" if opens and touches else "I",
                    "IOB2": "B" if opens else "I",
                    "BIOES": "S" if opens and closes else "B" if opens else "E" if closes else "I",
                }[scheme]
                tag = f"{prefix}-{label}"
        posteriors[row, tags.index(tag)] = 1
    return evidence([2 * first for first in starts], [2 * end - 1 for end in ends], posteriors)


def decoded(scheme: Scheme, starts: Any, ends: Any, mean: Any) -> list[tuple[int, int, str]]:
    found = Decoder(tags_of(LABELS, scheme), scheme).decode(np.log(np.maximum(mean, 1e-30)))
    return [(int(starts[s.first]), int(ends[s.last]), s.label) for s in found]


@st.composite
def entities(draw: st.DrawFn) -> list[Entity]:
    """An answer: entities in order, without overlap."""
    found, at = [], 0
    for size in draw(st.lists(st.integers(1, 3), max_size=4)):
        if draw(st.booleans()):
            label = draw(st.sampled_from(LABELS[:2]))
            found.append(Entity(at, at + size, label, draw(st.floats(0.1, 1))))
        at += size
    return found


def span(entity: Entity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.label


def spans(prediction: Prediction) -> list[tuple[int, int, str]]:
    return [span(entity) for entity in prediction.entities]


def blank_separated(folder: Path) -> Path:
    """The tiny version's network behind a tokenizer that parts at blanks alone, and knows some words."""
    known = {"Angela": "angela", "Merkel": "merkel", "IBM": "ibm", "New": "new", "York.": "york"}
    ids = {token: number for number, token in enumerate(VOCABULARY) if token not in known.values()}
    ids |= {word: VOCABULARY.index(token) for word, token in known.items()}
    rust = RustTokenizer(WordLevel(ids, unk_token="[UNK]"))
    rust.pre_tokenizer = WhitespaceSplit()
    rust.save(str(folder / "tokenizer.json"))
    return folder


def ensemble_of(folders: Sequence[Path], method: str, **changes: Any) -> Manifest:
    """The manifest `team/1` of members that may be the same folder more than once."""
    first = read_manifest(folders[0])
    fields = {"kind": "ensemble", "name": "team", "version": 1, "method": method, "weights": ()}
    return first.model_copy(update=fields | {"temperature": 1.0, "thresholds": {}} | changes)
