"""Ensembles: who fits, and that texts, tokenizers and members' order do not matter."""

from collections.abc import Callable, Iterator, Sequence
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
from app.engine.ensemble.model import Ensemble, check_members
from app.errors import InferenceFailed, VersionRefused
from app.labels import tags_of
from app.manifest import Manifest, read_manifest
from tests.networks import open_network
from tests.servers import until
from tests.texts import texts
from tests.tiny import LABELS, POISON, SCORES, SPANS, TAGS, TEXT, VOCABULARY, write_tiny_version


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
    with pytest.raises(VersionRefused, match="tag scheme"):
        check_members(member.model_copy(update={"method": "mean"}), [member, other])
    check_members(member.model_copy(update={"method": "vote"}), [member, other])  # raises nothing


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ensemble]]:
    """Makes ensembles of folders, and closes them at the end."""
    made: list[Ensemble] = []

    def make(*folders: Path, method: str = "mean", **changes: Any) -> Ensemble:
        networks = [open_network(folder) for folder in folders]
        made.append(Ensemble(ensemble_of(folders, method, **changes), networks))
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
    for network in alone.values():
        network.close()


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
