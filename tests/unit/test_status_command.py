from __future__ import annotations

import pytest

from ipvs_agent import cli
from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.cli import status
from ipvs_agent.errors import MissingModule, PermissionDenied
from ipvs_agent.model import Protocol, RealServer, VirtualServer, address_key, mark_key
from ipvs_agent.operations import AddRealServer, AddVirtualServer
from ipvs_agent.testing.fake_ipvs import FakeIpvs

WEB = address_key(Protocol.TCP, parse_address("10.96.0.1"), 80)
DNS = address_key(Protocol.UDP, parse_address("fd00:10:96::a"), 53)
SIGNALS = address_key(Protocol.SCTP, parse_address("10.96.0.3"), 38412)
MARK6 = mark_key(Family.IPV6, 77)
POD = parse_address("10.244.0.1")

TITLES = """\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
"""


class ClosableIpvs(FakeIpvs):
    closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def ipvs(monkeypatch):
    ipvs = ClosableIpvs()
    for key in (WEB, DNS, SIGNALS, MARK6):
        ipvs.apply([AddVirtualServer(VirtualServer(key, "rr"))])
    ipvs.apply([AddRealServer(WEB, RealServer(POD, port)) for port in (8081, 8080)])
    monkeypatch.setattr(status, "NetlinkIpvs", lambda: ipvs)
    return ipvs


def out_of(capsys, *words):
    assert cli.main(["status", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["-Ln"], ["-l"], ["--list", "--numeric"], ["-L", "-n"]])
def test_the_whole_table_in_ipvsadms_order(ipvs, capsys, words):
    expected = f"""\
IP Virtual Server version 1.2.1 (size=4096)
{TITLES}TCP  10.96.0.1:80 rr
  -> 10.244.0.1:8080              Masq    1      0          0         
  -> 10.244.0.1:8081              Masq    1      0          0         
SCTP 10.96.0.3:38412 rr
UDP  [fd00:10:96::a]:53 rr
FWM  77 IPv6 rr
"""  # noqa: W291 - the trailing blanks are ipvsadm's

    assert expected == out_of(capsys, *words)
    assert ipvs.closed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        pytest.param(["-u", "[fd00:10:96::a]:53"], "UDP  [fd00:10:96::a]:53 rr\n", id="UDP over IPv6"),
        pytest.param(["--sctp-service", "10.96.0.3:38412"], "SCTP 10.96.0.3:38412 rr\n", id="SCTP"),
        pytest.param(["-f", "77", "-6"], "FWM  77 IPv6 rr\n", id="mark"),
    ],
)
def test_one_virtual_server_has_no_version_line(ipvs, capsys, words, line):
    assert TITLES + line == out_of(capsys, *words)


@pytest.mark.parametrize("words", [["-t", "10.96.0.1:81"], ["-u", "10.96.0.1:80"], ["-f", "77"]])
def test_a_missing_virtual_server_fails_in_ipvsadms_words(ipvs, capsys, words):
    assert cli.main(["status", *words]) == 1

    assert capsys.readouterr() == ("", "No such service\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        pytest.param(MissingModule("this kernel has no IPVS"), 2, "this kernel has no IPVS\n", id="no IPVS"),
        pytest.param(
            PermissionDenied("denied"), 1, "denied (run as root, or with CAP_NET_ADMIN)\n", id="not root"
        ),
    ],
)
def test_why_the_kernel_cannot_be_read(monkeypatch, capsys, error, code, message):
    def refuse():
        raise error

    monkeypatch.setattr(status, "NetlinkIpvs", refuse)

    assert cli.main(["status"]) == code
    assert capsys.readouterr() == ("", f"ipvs-agent: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["-t", "10.96.0.1"], "'10.96.0.1' is not ADDRESS:PORT: the port is missing", id="no port"
        ),
        pytest.param(["-t", "[fd00::1]"], "'[fd00::1]' is not ADDRESS:PORT: the port is", id="no port, IPv6"),
        pytest.param(["-t", "10.96.0.1:65536"], "65536 is not a port", id="port out of range"),
        pytest.param(["-t", "example:80"], "'example' is not an IP address", id="a name"),
        pytest.param(["-f", "0"], "'0' is not a firewall mark", id="mark 0"),
        pytest.param(["-t", "10.96.0.1:80", "-u", "10.96.0.1:80"], "not allowed with", id="two at once"),
        pytest.param(["--stats"], "unrecognized arguments: --stats", id="a listing that is not there"),
    ],
)
def test_wrong_usage_is_said_before_the_kernel_is_asked(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        cli.main(["status", *words])

    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_family_goes_with_a_mark(capsys):
    assert cli.main(["status", "-6"]) == 2

    assert "-6 goes with -f MARK" in capsys.readouterr().err
