"""Input and output of fleets: worker processes, the journal, views, and the bus between hosts."""
