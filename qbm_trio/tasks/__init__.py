"""What runs in the nursery tree."""
