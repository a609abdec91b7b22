"""Behaviour that the fakes share with the kernel, as classes to be subclassed for each."""
