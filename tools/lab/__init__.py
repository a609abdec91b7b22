"""A node, its pods and clients as network namespaces: demo, tests and benchmarks stand on it."""
