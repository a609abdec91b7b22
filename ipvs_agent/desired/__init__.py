"""What this node should have in its kernel: pure functions from objects of the API to plans."""
