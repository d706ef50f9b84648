"""Entry point of the frozen tree."""

from slipway_agent.boot import main

main()
