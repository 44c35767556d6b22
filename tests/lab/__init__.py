"""Long tries with figures, not part of the test run: `make lab-agent`."""
