"""qbm-trio: keeps finished torrents safe and fast on an SSD with an HDD behind it."""

__version__ = "0.1.0"
