"""Pieces against sets of bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from torch2rt.build.piece import Piece

fuzz = settings(max_examples=500, deadline=None, derandomize=True, database=None)


def places(piece: Piece) -> list[int]:
    """Where each byte of it lies."""
    if piece.is_dense:
        return list(range(piece.offset_bytes, piece.offset_bytes + piece.size_bytes))
    return [
        piece.offset_bytes + i // piece.run_bytes * piece.pitch_bytes + i % piece.run_bytes
        for i in range(piece.size_bytes)
    ]


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    offset, run = draw(st.integers(0, 12)), draw(st.integers(1, 6))
    rows = draw(st.integers(1, 4))
    if draw(st.booleans()):
        return Piece(offset, run * rows)
    return Piece(offset, run * rows, run, run + draw(st.integers(0, 8)))


@fuzz
@given(pieces())
def test_a_piece_ends_after_its_last_byte(piece: Piece) -> None:
    assert piece.end_bytes == places(piece)[-1] + 1


@fuzz
@given(pieces(), pieces())
def test_a_piece_of_a_piece_is_where_its_bytes_are(inner: Piece, outer: Piece) -> None:
    outer = Piece(outer.offset_bytes, outer.size_bytes * 80, outer.run_bytes, outer.pitch_bytes)
    found = inner.inside(outer)
    if found is not None:
        assert places(found) == [places(outer)[i] for i in places(inner)]


@fuzz
@given(pieces(), pieces())
def test_pieces_that_share_a_byte_say_so(left: Piece, right: Piece) -> None:
    if set(places(left)) & set(places(right)):
        assert left.shares_bytes(right)
        assert right.shares_bytes(left)


def test_channels_of_channels() -> None:
    in_concat = Piece(32, 32 * 10, 32, 128)
    assert Piece(16, 8 * 10, 8, 32).inside(in_concat) == Piece(48, 8 * 10, 8, 128)
    assert Piece(64, 32 * 2).inside(in_concat) == Piece(32 + 256, 64, 32, 128)
    assert Piece(0, 32 * 10).inside(in_concat) == in_concat
    assert Piece(16, 32).inside(in_concat) is None


def test_parts_of_a_concat_share_no_bytes() -> None:
    left, middle, right = (Piece(o, s * 10, s, 64) for o, s in ((0, 16), (16, 32), (48, 16)))
    assert not left.shares_bytes(middle)
    assert not middle.shares_bytes(left)
    assert not right.shares_bytes(left)
    assert not Piece(64 + 16, 8).shares_bytes(left)
    assert left.shares_bytes(Piece(64, 8))
    assert left.shares_bytes(Piece(0, 640))
