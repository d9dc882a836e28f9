from hypothesis import given
from hypothesis import strategies as st

from app.engine.text.reader import Reader
from app.engine.text.tokenizer import Tokenizer
from app.engine.text.windows import cut_windows
from tests.texts import texts
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


def test_one_strange_text_does_not_spoil_what_is_expected_of_others() -> None:
    reader = reader_of(100)
    before = reader.expected(["x" * 4_000])
    reader.read(["!" * 100_000])
    assert reader.expected(["x" * 4_000]) < 1.1 * before


@given(text=st.one_of(texts, st.text(alphabet="ab \n.", max_size=30)))
def test_between_spaces_there_is_a_sub_token(text: str) -> None:
    reader = reader_of()
    if not set(text) & {"\u200b", "\u200d", "\u200f", "\x00"}:  # of what is not seen, there may be none
        encoded = reader.read([text])[0].encoded
        assert reader.at_least([text]) <= max(len(encoded), 0)


def test_at_least_counts_words() -> None:
    assert reader_of().at_least(["one two three four", "  ", "! !"]) == 2


def test_texts_are_read_a_step_at_a_time() -> None:
    reader = reader_of()
    long = "Angela Merkel, " * 5_000
    asked = [*["IBM"] * 70, "x " * 14_000, "y " * 14_000, long, "", "last"]
    steps = list(reader.read_gradually(asked))
    read = [one for step in steps for one in step]
    assert [len(step) for step in steps if step] == [32, 32, 7, 1, 1, 2]
    assert sum(not step for step in steps) >= 2  # parts of the long text
    for one, other in zip(read, reader.read(asked), strict=True):
        assert one.windows == other.windows
        assert one.encoded.ids.tolist() == other.encoded.ids.tolist()
