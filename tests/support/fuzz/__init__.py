"""Calls that nobody means: any message that a descriptor allows, sent to running services."""
