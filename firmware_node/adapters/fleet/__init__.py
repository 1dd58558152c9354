"""How a running fleet is looked at and steered: terminal, browser, metrics."""
