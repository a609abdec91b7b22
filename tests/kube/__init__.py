"""A real Kubernetes API server to test on; `python -m tests.kube --help` says how to have it by hand."""
