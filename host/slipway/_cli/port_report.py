"""Report of published ports, on stderr before the program starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._cli.terminal import write_line

if TYPE_CHECKING:
    from slipway._model.published_ports import PublishedPort
    from slipway._run.job_report import PhaseReport
    from slipway_protocol.messages import Phase


def report_ports(ports: tuple[PublishedPort, ...]) -> None:
    """Print one line for each published port."""
    for port in ports:
        host = f"[{port.host}]" if ":" in port.host else port.host
        place = port.path or f"{host}:{port.port}"
        write_line(f"published port {port.guest} at {place}")


class PortObserver:
    """Observer of a run that reports the published ports when the machine is ready."""

    def on_booted(self, hypervisor: str, ports: tuple[PublishedPort, ...]) -> None:
        """Report the ports."""
        report_ports(ports)

    def on_phase_started(self, phase: Phase) -> None:
        """Do nothing."""

    def on_phase_ended(self, phase: Phase, report: PhaseReport) -> None:
        """Do nothing."""

    def on_job_done(self) -> None:
        """Do nothing."""
