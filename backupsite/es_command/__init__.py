"""The command `es`: a client of `/api/` with the grammar that scripts know. Needs neither Django nor the service."""
