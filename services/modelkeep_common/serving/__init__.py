"""A service as a process: start, drain, health, reflection, what it says about itself. See server.py."""

from .server import Application, RunningServer, Service, run, start_server

__all__ = ["Application", "RunningServer", "Service", "run", "start_server"]
