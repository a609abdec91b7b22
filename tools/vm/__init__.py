"""Runs a command as root on a kernel that has IPVS, on this machine's own root file system.

`python3 -m tools.vm --help` says how. Only the standard library is used, so that this runs before anything
is installed. A backend says how its kernel is started (`host`, `uml`, `qemu`); what it starts is the same
init script everywhere (`guest`), watched by the same loop (`machine`).
"""
