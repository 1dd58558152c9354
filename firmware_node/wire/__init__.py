"""Bytes to frozen values and back; no state, no time, no keys."""
