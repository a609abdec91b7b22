"""Runs the command line as python -m ipvs_agent."""

from ipvs_agent.cli import main

raise SystemExit(main())
