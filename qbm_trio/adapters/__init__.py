"""One outside thing each: SQLite, the disks, qBittorrent."""
