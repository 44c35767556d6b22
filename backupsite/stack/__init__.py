"""The launcher of the embedded stack: everything Backupsite needs on one machine, started and watched by one process.

It imports no Django and nothing of the service: it only starts other programs and tells them, through their
environment, where the others are. What a program is not told it cannot use.
"""
