from __future__ import annotations

import contextlib
import json

import pytest

from ipvs_agent import cli
from ipvs_agent.addresses import Family, parse_address
from ipvs_agent.cli import status
from ipvs_agent.errors import MissingModule, PermissionDenied
from ipvs_agent.model import (
    ForwardingMethod,
    ObjectName,
    Protocol,
    RealServer,
    ServiceFlags,
    VirtualServer,
    address_key,
    mark_key,
)
from ipvs_agent.observed import Counters
from ipvs_agent.operations import AddRealServer, AddVirtualServer, DeleteRealServer
from ipvs_agent.serve import notes
from ipvs_agent.status.fingerprint import fingerprint
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


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """The agent's notes, which are nowhere until they are flushed."""
    monkeypatch.setattr(notes, "PATH", tmp_path / "notes.json")
    warnings = []
    with contextlib.closing(notes.Notes(notes.PATH, warnings.append)) as agent:
        yield agent
    assert [] == warnings


class TestWide:
    TAKEN = "192.0.2.1:80/TCP is taken by default/older"

    @pytest.mark.parametrize("words", [["-o", "wide"], ["-Ln", "--output", "wide"]])
    def test_the_listing_and_then_what_is_not_served_as_asked(self, ipvs, agent, capsys, words):
        agent.replace(ObjectName("default", "web"), (self.TAKEN, "second"))
        agent.replace(ObjectName("a", "b"), ("third",))
        agent.flush()
        listing = out_of(capsys)

        assert (
            f"{listing}\nNot served as asked:\na/b: third\ndefault/web: {self.TAKEN}\ndefault/web: second\n"
            == out_of(capsys, *words)
        )
        assert listing == out_of(capsys)

    def test_where_all_is_served_there_is_no_section(self, ipvs, agent, capsys):
        agent.flush()

        assert out_of(capsys) == out_of(capsys, "-o", "wide")

    def test_without_an_agent_the_listing_is_whole_and_the_reason_told(self, ipvs, agent, capsys):
        listing = out_of(capsys)

        assert cli.main(["status", "-o", "wide"]) == 0
        message = f"ipvs-agent: no notes of the agent: {notes.PATH}: No such file or directory\n"
        assert (listing, message) == capsys.readouterr()

    @pytest.mark.parametrize("words", [["-t", "10.96.0.1:80"], ["-f", "77", "-6"]])
    def test_it_is_for_the_whole_table(self, capsys, words):
        assert cli.main(["status", "-o", "wide", *words]) == 2

        assert "-o wide is for the whole table" in capsys.readouterr().err


class TestJson:
    NO_TRAFFIC = dict.fromkeys(
        (
            *("connections", "packetsIn", "packetsOut", "bytesIn", "bytesOut", "connectionsRate"),
            *("packetsInRate", "packetsOutRate", "bytesInRate", "bytesOutRate"),
        ),
        0,
    )

    def read(self, capsys, *words):
        return json.loads(out_of(capsys, "-o", "json", *words))

    def test_a_virtual_server_with_all_that_the_kernel_says(self, ipvs, capsys):
        key = address_key(Protocol.TCP, parse_address("10.96.0.1"), 81)
        flags = ServiceFlags.PERSISTENT | ServiceFlags.SCHEDULER_1
        virtual_server = VirtualServer(key, "sh", flags, 60, 0xFFFFFF00)
        ipvs.apply([AddVirtualServer(virtual_server)])
        ipvs.apply([AddRealServer(key, RealServer(POD, 8080, 5, 0, 100, 80))])
        ipvs.apply([AddRealServer(key, RealServer(POD, 8079, 0, ForwardingMethod.DIRECT))])
        ipvs.set_connections(key, (POD, 8080), active=3, inactive=4, persistent=5)
        ipvs.set_counters(key, Counters(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
        (listed,) = self.read(capsys, "-t", "10.96.0.1:81")["virtualServers"]

        assert {
            "family": "IPv4",
            "protocol": "TCP",
            "address": "10.96.0.1",
            "port": 81,
            "mark": None,
            "scheduler": "sh",
            "flags": ["sh-fallback"],
            "onePacket": False,
            "persistence": {"seconds": 60, "netmask": "255.255.255.0", "engine": None},
            "fingerprint": fingerprint(virtual_server, ipvs.real_servers(key)),
            "draining": ["10.244.0.1:8079"],
            "counters": dict(zip(self.NO_TRAFFIC, range(1, 11), strict=True)),
            "realServers": [
                {
                    "address": "10.244.0.1",
                    "port": 8079,
                    "method": "direct",
                    "weight": 0,
                    "upperThreshold": 0,
                    "lowerThreshold": 0,
                    "activeConnections": 0,
                    "inactiveConnections": 0,
                    "persistentConnections": 0,
                    "counters": self.NO_TRAFFIC,
                },
                {
                    "address": "10.244.0.1",
                    "port": 8080,
                    "method": "masquerade",
                    "weight": 5,
                    "upperThreshold": 100,
                    "lowerThreshold": 80,
                    "activeConnections": 3,
                    "inactiveConnections": 4,
                    "persistentConnections": 5,
                    "counters": self.NO_TRAFFIC,
                },
            ],
        } == listed

    def test_the_whole_table_is_sorted_and_says_what_is_not_served(self, ipvs, agent, capsys):
        agent.replace(ObjectName("default", "web"), ("one", "two"))
        agent.flush()
        document = self.read(capsys)

        assert {"version": "1.2.1", "connectionTableSize": 4096} == document["ipvs"]
        assert {"default/web": ["one", "two"]} == document["notServedAsAsked"]
        assert [
            ("IPv4", "TCP", "10.96.0.1", 80, None),
            ("IPv4", "SCTP", "10.96.0.3", 38412, None),
            ("IPv6", None, None, None, 77),
            ("IPv6", "UDP", "fd00:10:96::a", 53, None),
        ] == [
            (each["family"], each["protocol"], each["address"], each["port"], each["mark"])
            for each in document["virtualServers"]
        ]

    def test_real_servers_stand_in_the_kernels_order(self, ipvs, agent, capsys):
        agent.flush()
        web = self.read(capsys)["virtualServers"][0]
        ipvs.apply([DeleteRealServer(WEB, POD, 8081), AddRealServer(WEB, RealServer(POD, 8081))])
        again = self.read(capsys)["virtualServers"][0]

        assert [8080, 8081] == [each["port"] for each in web["realServers"]]
        assert [8081, 8080] == [each["port"] for each in again["realServers"]]

    def test_without_an_agent_nobody_says_what_is_not_served(self, ipvs, agent, capsys):
        assert cli.main(["status", "-o", "json"]) == 0
        out, err = capsys.readouterr()

        assert json.loads(out)["notServedAsAsked"] is None
        assert f"ipvs-agent: no notes of the agent: {notes.PATH}: No such file or directory\n" == err

    def test_a_missing_virtual_server_is_no_empty_document(self, ipvs, capsys):
        assert cli.main(["status", "-o", "json", "-t", "10.96.0.9:80"]) == 1

        assert ("", "No such service\n") == capsys.readouterr()


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
        pytest.param(["-o", "narrow"], "invalid choice: 'narrow'", id="a format that is not there"),
        pytest.param(["-o"], "expected one argument", id="no format"),
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
