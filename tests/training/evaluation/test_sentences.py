from training.evaluation.sentences import SENTENCES


def test_sentences_are_as_long_as_those_of_news() -> None:
    assert len(set(SENTENCES)) == len(SENTENCES) >= 20
    assert all(20 <= len(sentence.split()) <= 30 for sentence in SENTENCES)
