"""Run of a job: image, machine, agent, job, output, result."""
