"""Drivers: plug-ins that take a snapshot of a disk and give readable data, and that open a disk for a restore."""
