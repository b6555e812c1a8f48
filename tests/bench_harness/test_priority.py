import os
import threading

import pytest

from torch2rt.bench.priority import check_realtime, realtime_turn
from torch2rt.errors import ConfigError


def is_permitted() -> bool:
    try:
        check_realtime()
    except ConfigError:
        return False
    return True


def test_a_turn_is_real_time_in_every_thread_and_only_then() -> None:
    if not is_permitted():
        pytest.skip("real-time scheduling is not permitted to this user")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert thread.native_id is not None
    try:
        with realtime_turn(wanted=True):
            policies = [os.sched_getscheduler(task) for task in (0, thread.native_id)]
        after = [os.sched_getscheduler(task) for task in (0, thread.native_id)]
    finally:
        stop.set()
        thread.join()
    assert policies == [os.SCHED_RR] * 2
    assert after == [os.SCHED_OTHER] * 2


def test_a_turn_is_ordinary_unless_asked() -> None:
    with realtime_turn(wanted=False):
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_where_it_is_not_permitted_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(ConfigError, match=r"realtime=True .* Run as root"):
        check_realtime()
