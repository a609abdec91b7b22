"""From plans to the kernel: claims, differences, the one loop over operations, and what it remembers."""
