"""Fakes as strict as what they stand for, for the tests of the agent and of what is built on it."""
