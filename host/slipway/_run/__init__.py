"""One run: image, machine, agent, job, output, result."""
