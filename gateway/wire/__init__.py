"""The formats on the wire, byte level. Imports nothing of ours but errors."""
