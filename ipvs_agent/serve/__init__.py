"""What the agent serves and says to others than the kernel: health checks, Events, notes for `status`."""
