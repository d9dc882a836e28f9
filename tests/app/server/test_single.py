"""The server as one process."""

from tests.servers import Server


def test_one_process_is_alone(server: Server) -> None:
    assert server.pids == [server.process.pid]
    assert server.log.read_text().count("listening on") == 1
    assert server.metric("nerve_workers") == 1
