"""An emulated smart-metering device (PPMID, HCALCS) that takes firmware over the air."""

__version__ = "0.1.0"
