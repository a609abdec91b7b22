"""What developers of ipvs-agent run: a kernel to test on, and the demonstration."""
