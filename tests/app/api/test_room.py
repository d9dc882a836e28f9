from app.api.room import Room, Share


def test_shares_take_no_more_than_there_is_and_give_it_back() -> None:
    room = Room(100)
    with Share(room) as one, Share(room) as other:
        assert one.resize(60)
        assert not other.resize(41)
        assert (other.size, room.free) == (0, 40)
        assert other.resize(40)
        assert one.resize(10)
        assert other.resize(90)
        assert room.free == 0
    assert room.free == room.size == 100
