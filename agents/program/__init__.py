"""The agent program and the node-side mover: drivers and engine, no Django."""
