"""The thin edge to the Linux kernel: the only package that opens netlink sockets or runs node tools."""
