"""Tells when the node's own addresses change, or kube-ipvs0 goes down, by the kernel's own notifications.

The VIPs come and go on an interface of ours by the ten thousand, so the kernel is told not to pass on what
happens there: a filter on the socket, which names the interface by its index, follows the interface.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable

from ipvs_agent.addresses import Address
from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.netlink import NETLINK_ROUTE, NetlinkSocket, received
from ipvs_agent.operations import LINK

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_SETTLING_MS = 50
_READ = 64 * 1024
_ADDRESS_MESSAGES = (rtnetlink.RTM_NEWADDR, rtnetlink.RTM_DELADDR)
_NO_LINK = 0

_SO_ATTACH_FILTER = 26
# Classic BPF: struct sock_filter is code, jump if true, jump if false, operand.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_WHOLE, _NOTHING = 0xFFFFFFFF, 0
_TYPE_OFFSET = 4  # in struct nlmsghdr
_INDEX_OFFSET = 16 + 4  # in struct ifaddrmsg behind it


class AddressEvents:
    """Calls `tell` after addresses of any interface but kube-ipvs0 came, went or proved to be no duplicates.

    It watches the network namespace of the thread that makes it, from then on, and tells between start() and
    stop(), from a thread of its own, once for all that happens within some 50 ms. What it tells of may turn
    out to be no change. `tell` must not wait.

    tell_of_gone: is called at once with each address that has gone, also where another interface has it too.
    tell_of_loss: is called as `tell` is, after kube-ipvs0 went down or away, with which IPv6 VIPs are lost.
    """

    def __init__(
        self,
        tell: Callable[[], None],
        tell_of_gone: Callable[[Address], None],
        tell_of_loss: Callable[[], None],
    ) -> None:
        self._tell = tell
        self._tell_of_gone = tell_of_gone
        self._tell_of_loss = tell_of_loss
        self._ended = os.eventfd(0, os.EFD_CLOEXEC)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_ROUTE
        )
        self._socket.bind((0, _GROUPS))
        self._requests = NetlinkSocket(NETLINK_ROUTE)
        self._vip_link = _NO_LINK
        self._is_up = False
        self._has_lost = False
        """Whether it is yet to be told that kube-ipvs0 went down or away."""
        # Asked only now, so that what becomes of the interface later is among the notifications.
        self._find_vip_link()
        self._thread = threading.Thread(target=self._run, name="address-events", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, which may tell a last time, and close the socket."""
        os.eventfd_write(self._ended, 1)
        if self._thread.is_alive():
            self._thread.join()
        self._requests.close()
        self._socket.close()
        os.close(self._ended)

    def _run(self) -> None:
        ended, either = select.poll(), select.poll()
        for poll in (ended, either):
            poll.register(self._ended, select.POLLIN)
        either.register(self._socket, select.POLLIN)
        while self._ended not in dict(either.poll()):
            has_news = self._read()
            if has_news or self._has_lost:
                ended.poll(_SETTLING_MS)
                has_news |= self._read()
            if self._has_lost:
                self._has_lost = False
                self._tell_of_loss()
            if has_news:
                self._tell()

    def _read(self) -> bool:
        """Read all notifications that there are; tell whether there is anything to tell."""
        has_news = False
        while True:
            try:
                data = self._socket.recv(_READ)
            except BlockingIOError:
                return has_news
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Some were lost for want of room, and those of the VIPs' interface may be among them.
                self._find_vip_link()
                has_news = True
                continue
            for kind, _flags, _sequence, payload in received(data):
                if kind in _ADDRESS_MESSAGES:
                    has_news |= self._heed(kind, payload)
                else:
                    self._follow(kind, payload)

    def _heed(self, kind: int, payload: bytes) -> bool:
        """Take note of what became of an address; tell whether it is one of the node's."""
        found = rtnetlink.parse_address(payload)
        if found.link == self._vip_link:
            return False
        if kind == rtnetlink.RTM_DELADDR:
            self._tell_of_gone(found.address)
        return True

    def _find_vip_link(self) -> None:
        self._note(rtnetlink.find_link(self._requests, LINK))

    def _follow(self, kind: int, payload: bytes) -> None:
        """Take note of what became of a network interface."""
        if payload[0] != socket.AF_UNSPEC:
            return  # of its part in a bridge
        link = rtnetlink.parse_link(payload)
        is_vip_link = kind == rtnetlink.RTM_NEWLINK and link.name == LINK
        if is_vip_link:
            self._note(link)
        elif link.index == self._vip_link:
            self._note(None)

    def _note(self, link: rtnetlink.Link | None) -> None:
        """Take note of how kube-ipvs0 is now; None: there is none."""
        index = link.index if link is not None else _NO_LINK
        is_up = link is not None and link.is_up
        has_gone = self._vip_link not in (_NO_LINK, index)
        self._has_lost |= has_gone or (self._is_up and not is_up)
        self._is_up = is_up
        self._pass_over(index)

    def _pass_over(self, index: int) -> None:
        """Have the kernel keep what happens to the addresses of one interface to itself."""
        if index == self._vip_link:
            return
        self._vip_link = index
        program = array.array("B", _filter(index))
        place, length = program.buffer_info()
        # struct sock_fprog: the number of instructions, and where they are
        described = struct.pack("@HP", length // _INSTRUCTION.size, place)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def _filter(index: int) -> bytes:
    """Return the program that drops what is said of addresses of one interface."""
    instructions = [
        (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, _loaded(rtnetlink.RTM_NEWADDR, 2)),
        (_JUMP_IF_EQUAL, 0, 2, _loaded(rtnetlink.RTM_DELADDR, 2)),
        (_LOAD_WORD, 0, 0, _INDEX_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, _loaded(index, 4)),
        (_RETURN, 0, 0, _WHOLE),
        (_RETURN, 0, 0, _NOTHING),
    ]
    return b"".join(_INSTRUCTION.pack(*each) for each in instructions)


def _loaded(value: int, size: int) -> int:
    """Return what a program, which loads in network order, makes of a number in the machine's own."""
    return int.from_bytes(value.to_bytes(size, sys.byteorder))
