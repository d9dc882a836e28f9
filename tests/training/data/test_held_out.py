import pytest

from training.data.held_out import HeldOut

HELD_OUT = HeldOut(
    ["The tern flew over the old grey harbour.", "Dora waited", "Emil , however , did n't come home"]
)


@pytest.mark.parametrize(
    "text",
    [
        "dora waited",
        "The Tern flew over the old, grey harbour",
        '"The tern flew over the old grey harbour," said Ida.',
        "Emil, however, didn't come home; nobody asked why.",
        "He said: Emil however did n't come home",
        "flew over the old grey harbour",
        "The tern flew over the old grey",
    ],
)
def test_what_is_or_holds_or_is_part_of_a_held_out_text_touches_it(text: str) -> None:
    assert HELD_OUT.touches(text)


@pytest.mark.parametrize(
    "text",
    [
        "Dora waited for Emil",  # two words alone are no leak
        "the old grey harbour",
        "The tern flew over the old green harbour.",
        "Breathe tern flew over the old grey harbour.",  # not where a word starts
    ],
)
def test_what_only_shares_words_with_a_held_out_text_does_not(text: str) -> None:
    assert not HELD_OUT.touches(text)


def test_letters_that_are_spelled_out_are_not_looked_for() -> None:
    spelled = HeldOut(["U-P-D-A-T-E-D"])
    assert not spelled.touches("The list was updated")
    assert spelled.touches("Updated!")
