"""The agent program on a protected server: asks the control plane for work, and moves its data to the vault itself.

No listening port, no storage credential, no command that the network could name. See docs/agent.md.
"""
