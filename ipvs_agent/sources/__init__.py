"""Where Services come from: the Kubernetes API, or manifests. Both fill the store with changes."""
