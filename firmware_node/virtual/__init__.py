"""The virtual ZNP: a stick that hosts take for hardware, and the air that sticks share."""
