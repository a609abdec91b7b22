"""Runs the command line as python -m ipvs_agent."""

from ipvs_agent.cli import program

program()
