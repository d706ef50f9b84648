"""The frozen tree starts the agent with this."""

from slipway_agent.boot import main

main()
