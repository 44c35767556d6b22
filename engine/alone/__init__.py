"""The stand-alone restore tool: bucket and recovery key are enough."""
