from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForTokenClassification, BertForTokenClassification

from tests.training.export.checkpoints import write_checkpoint
from tests.training.models.teachers import TAGS, inputs, student
from training.models import load_tagger, student_of
from training.models.transformer import TransformerTagger


def of(teacher: TransformerTagger, tags: tuple[str, ...] = TAGS, **size: int) -> TransformerTagger:
    made = student_of("transformer", teacher, tags, size, torch.Generator().manual_seed(0)).eval()
    assert isinstance(made, TransformerTagger)
    return made


@torch.inference_mode()
def test_a_student_of_equal_size_is_its_teacher(teacher: TransformerTagger) -> None:
    batch = inputs([9, 4])
    assert torch.equal(of(teacher)(*batch), teacher(*batch))


@torch.inference_mode()
def test_a_student_owns_its_weights(teacher: TransformerTagger) -> None:
    batch = inputs([9, 4])
    before = teacher(*batch)
    for parameter in of(teacher).parameters():
        parameter.zero_()
    assert torch.equal(teacher(*batch), before)


@torch.inference_mode()
def test_a_shallow_student_has_the_last_layer(teacher: TransformerTagger) -> None:
    shallow = of(teacher, layers=1)
    assert shallow.depth == 1
    batch = inputs([9, 4])
    below = teacher.hidden_states(*batch)[1]
    copied = shallow.network.bert.encoder.layer[0].state_dict()
    last = teacher.network.bert.encoder.layer[1].state_dict()
    assert all(torch.equal(copied[name], last[name]) for name in last)
    assert torch.equal(shallow.hidden_states(*batch)[1][0], below[0])


@torch.inference_mode()
def test_neurons_that_do_nothing_are_not_missed(teacher: TransformerTagger, tmp_path: Path) -> None:
    """Of 64 neurons 24 are silenced; a student of 40 answers as the teacher does."""
    teacher.save(tmp_path)
    silenced = TransformerTagger.load(tmp_path)
    for layer in silenced.network.bert.encoder.layer:
        layer.output.dense.weight[:, 10:34] = 0
    batch = inputs([9, 4])
    narrow = of(silenced, intermediate=40)
    assert narrow.network.bert.encoder.layer[0].intermediate.dense.weight.shape == (40, 32)
    torch.testing.assert_close(narrow(*batch), silenced(*batch), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_narrow_student_starts_from_the_teachers_embeddings(teacher: TransformerTagger) -> None:
    narrow = of(teacher, width=16)
    assert narrow.network.config.num_attention_heads == 1  # heads of 16, as the teacher's
    own, theirs = narrow.network.bert.embeddings, teacher.network.bert.embeddings
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    small, large = ([getattr(tables, name).weight for name in names] for tables in (own, theirs))
    axes = torch.linalg.lstsq(large[0], small[0]).solution
    torch.testing.assert_close(axes.T @ axes, torch.eye(16), atol=1e-4, rtol=0)
    for narrowed, whole in zip(small, large, strict=True):  # one projection for all three
        torch.testing.assert_close(narrowed, whole @ axes, atol=1e-4, rtol=0)
    assert own.LayerNorm.weight.shape == (16,)
    assert (own.LayerNorm.weight - 1).abs().max() < 0.5


@torch.inference_mode()
def test_the_classifier_knows_the_tags_that_both_have(teacher: TransformerTagger) -> None:
    tags = ("B-LOC", "B-SHIP", "O")
    made, batch = of(teacher, tags), inputs([9, 4])
    assert made.network.config.id2label == dict(enumerate(tags))
    logits, theirs = made(*batch), teacher(*batch)
    for column in (0, 2):
        torch.testing.assert_close(logits[..., column], theirs[..., TAGS.index(tags[column])])
    assert not any(torch.allclose(logits[..., 1], theirs[..., column]) for column in range(len(TAGS)))


def test_what_is_saved_is_a_plain_checkpoint(teacher: TransformerTagger, tmp_path: Path) -> None:
    made, (ids, mask, shapes) = of(teacher, layers=1), inputs([9, 4])
    made.save(tmp_path)
    assert not (tmp_path / "tagger.json").exists()
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()
    plain, loading = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(plain, BertForTokenClassification)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    with torch.inference_mode():
        logits = plain.eval()(input_ids=ids, attention_mask=mask, token_type_ids=shapes).logits
        torch.testing.assert_close(logits[mask == 1], made(ids, mask, shapes)[mask == 1])


def test_training_is_set_for_speed(teacher: TransformerTagger, tmp_path: Path) -> None:
    teacher.save(tmp_path)
    for network in (teacher, of(teacher), load_tagger(tmp_path)):
        assert isinstance(network, TransformerTagger)
        assert network.network.config._attn_implementation == "eager"
        assert network.network.config.attention_probs_dropout_prob == 0
        assert network.network.config.hidden_dropout_prob == 0.1
    assert AutoConfig.from_pretrained(tmp_path).hidden_dropout_prob == 0.1


@pytest.mark.parametrize("kind", ["electra", "roberta"])
@torch.inference_mode()
def test_kin_of_bert_teach(kind: str, tmp_path: Path) -> None:
    other = TransformerTagger.load(write_checkpoint(tmp_path / kind, kind))
    tags = tuple(other.network.config.id2label.values())
    batch = inputs([9, 4])
    assert torch.equal(of(other, tags)(*batch), other(*batch))
    assert of(other, tags, width=16, layers=1)(*batch).shape == (2, 9, len(tags))


def test_who_cannot_teach_a_transformer_is_told(teacher: TransformerTagger, tmp_path: Path) -> None:
    distilbert = TransformerTagger.load(write_checkpoint(tmp_path / "distilbert", "distilbert"))
    with pytest.raises(ValueError, match="its teacher is a distilbert"):
        of(distilbert)
    with pytest.raises(ValueError, match="its teacher is a cnn"):
        student_of("transformer", student("cnn", teacher), TAGS, {}, torch.Generator())
