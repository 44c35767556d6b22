"""Backups that are copies on a storage of a backup node, and not objects in a vault: File and Dataset."""
