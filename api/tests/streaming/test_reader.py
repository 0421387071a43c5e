"""What is known of one reader."""

from api.hub.event_hub import EventHub
from api.hub.frame import framed
from api.streaming.reader import Reader
from api.tenants.caller import Caller


async def test_it_knows_what_its_client_has_been_told(hub: EventHub) -> None:
    reader = Reader(hub.follow("t1"), model="m", required=False, caller=Caller("me"))
    assert (reader.task_id, reader.state, reader.told) == ("t1", None, (None, None))
    reader.note([framed(b"0-1", b"status", b'{"state":"PENDING","position":3}')])
    assert (reader.state, reader.told) == ("PENDING", (3, None))
    reader.note([framed(b"1-0", b"status", b'{"state":"STARTED"}'), framed(b"1-1", b"token", b"not looked at")])
    assert reader.state is None
    assert not reader.ended
    reader.note([framed(b"1-2", b"status", b'{"state":"SUCCESS"}'), framed(b"1-3", b"end", b"{}")])
    assert reader.ended


async def test_it_is_stuck_while_something_goes_out_to_it(hub: EventHub) -> None:
    reader = Reader(hub.follow("t1"), model="m", required=False, caller=Caller("me"))
    began = reader.quiet_since
    assert reader.stuck_since is None
    reader.sending()
    assert reader.stuck_since == reader.quiet_since >= began
    reader.sent()
    assert reader.stuck_since is None
