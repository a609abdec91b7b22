"""Why a Service is served as it is, in words."""
