from app.engine.text.reader import Reader
from app.engine.text.tokenizer import Tokenizer
from app.engine.text.windows import cut_windows
from tests.tiny import tiny_tokenizer


def reader_of(max_length: int = 16, stride: int = 4) -> Reader:
    return Reader(Tokenizer(tiny_tokenizer()), max_length, stride)


def test_a_text_is_cut_into_windows_that_leave_room_for_the_special_tokens() -> None:
    reader = reader_of()
    short, long = reader.read(["IBM", "x " * 40])
    assert list(short.windows) == cut_windows(1, 14, 4)
    assert list(long.windows) == cut_windows(40, 14, 4)
    assert len(long.encoded.firsts) == 40


def test_a_text_without_decisions_has_no_windows() -> None:
    assert [list(read.windows) for read in reader_of().read(["", " ", "\u200b"])] == [[], [], []]


def test_sub_tokens_are_expected_as_the_latest_texts_had_them() -> None:
    reader = reader_of(100)
    assert reader.expected(["x" * 400, "x" * 40]) == 112
    for _ in range(1_000):
        reader.read(["x " * 90])
    assert abs(reader.expected(["x " * 90]) - 92) <= 4
    for _ in range(1_000):
        reader.read(["xx " * 40])  # two sub-tokens a word
    assert abs(reader.expected(["xx " * 40]) - 82) <= 4
