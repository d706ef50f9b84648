"""Connect: the agent's answers, and what the kernel makes of its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_protocol import messages as m
from support.agent import MTU_REFUSED, job, python
from support.agent_network import SPEC, run_in_namespace

if TYPE_CHECKING:
    from support.agent import Host


def test_connect_is_answered_by_connected(host: Host) -> None:
    host.send(SPEC, SPEC)

    assert host.expect(m.Connected) == host.expect(m.Connected)


def test_network_that_cannot_be_set_up_is_a_fault_that_is_not_fatal(host: Host) -> None:
    host.send(m.Connect(SPEC.address, SPEC.gateway, 30, MTU_REFUSED, SPEC.gateway_mac))

    fault = host.expect(m.Fault)

    assert not fault.fatal
    assert "no such MTU" in fault.text
    assert host.run(job(python("print(1)"))).stdout == b"1\n"


def test_connect_during_a_job_is_a_fault(host: Host) -> None:
    host.start(job(python("import sys; sys.stdin.read()", stdin=True)))
    host.until(m.PhaseStarted)

    host.send(SPEC)

    _, fault = host.until(m.Fault)
    assert "before the end of job 1" in fault.text
    host.send(m.InputEnd(1))
    host.until(m.JobDone)


@pytest.mark.usefixtures("taps")
def test_packets_go_to_the_gateway_which_is_never_asked_for_its_address() -> None:
    run_in_namespace("""
tap = Tap()
network.connect(SPEC, NO_MODULES)
for address in (GATEWAY, "198.19.255.255", "8.8.8.8"):
    open_socket().sendto(bytes(65000), (address, 53))
    frame = tap.receive()
    assert frame[:14] == addresses.GATEWAY_MAC + addresses.GUEST_MAC + IPV4, frame[:14]
    assert frame[26:30] == addresses.GUEST, frame[26:30]
    assert len(frame) == 14 + 20 + 8 + 65000, len(frame)
""")


@pytest.mark.usefixtures("taps")
def test_datagrams_of_the_gateway_arrive_at_the_address_and_at_loopback() -> None:
    run_in_namespace("""
tap = Tap()
network.connect(SPEC, NO_MODULES)
for address in (GUEST, "127.0.0.1"):
    server = open_socket()
    server.bind((address, 7))
    tap.send_datagram(address, 7, address.encode())
    assert server.recvfrom(100) == (address.encode(), (GATEWAY, 9))
""")


@pytest.mark.usefixtures("taps")
def test_interface_that_comes_up_sends_nothing() -> None:
    run_in_namespace("""
tap = Tap()
network.connect(SPEC, NO_MODULES)
assert tap.receive(SILENCE) is None
assert network.INTERFACE not in Path("/proc/net/if_inet6").read_text()
""")


@pytest.mark.usefixtures("taps")
def test_second_connect_has_no_further_effect() -> None:
    run_in_namespace("""
tap = Tap()
network.connect(SPEC, NO_MODULES)
before = Path("/proc/net/route").read_text(), Path("/proc/net/arp").read_text()
network.connect(SPEC, NO_MODULES)
assert before == (Path("/proc/net/route").read_text(), Path("/proc/net/arp").read_text())
""")


@pytest.mark.usefixtures("taps")
def test_missing_interface_is_an_error_with_its_name() -> None:
    run_in_namespace("""
network.WAIT_SECONDS = 0.05
try:
    network.connect(SPEC, NO_MODULES)
except OSError as error:
    assert "eth0 did not appear" in str(error), error
else:
    raise AssertionError("an interface appeared")
""")
