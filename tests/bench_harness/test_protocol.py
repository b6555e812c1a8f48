import pytest

from torch2rt.bench.protocol import (
    Build,
    Built,
    Close,
    MakeReference,
    Message,
    ReferenceMade,
    Refused,
    Turn,
    TurnDone,
    decode,
    encode,
)
from torch2rt.bench.source import ModelSource

SOURCE = ModelSource("factory", "models.py:one", 3)


@pytest.mark.parametrize(
    "message",
    [
        MakeReference(SOURCE, "/tmp/r.npz", 2, "cpu", use_float64=True),
        ReferenceMade(4),
        Build(SOURCE, "eager", "plain", "fp32", "cpu", 2, "r.npz", "folder"),
        Built("1.0", 0.5, float("inf")),
        Refused("failed", 'what "was" said\n'),
        Turn(0.1, 3, 0.01),
        TurnDone(1.5, 10, 0.2, 0.0),
        Close(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_survive_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"kind": "Unknown"}', b"not json"])
def test_other_data_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"benchmark protocol|Expecting value"):
        decode(data)


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="Turn message with wrong fields"):
        decode(b'{"kind": "Turn", "minutes": 3}')
